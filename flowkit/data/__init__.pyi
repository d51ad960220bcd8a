"""Written by ``make stubs``."""

from flowkit.data._dataset import Dataset as Dataset
from flowkit.data._dataset import Scale as Scale
from flowkit.data._dataset import Split as Split
from flowkit.data._table import Table as Table
from flowkit.data._table import read_table as read_table
from flowkit.data.alanine_dipeptide import AlanineDipeptide as AlanineDipeptide
from flowkit.data.checkerboard import Checkerboard as Checkerboard
from flowkit.data.cifar10 import CIFAR10 as CIFAR10
from flowkit.data.circles import Circles as Circles
from flowkit.data.corners import Corners as Corners
from flowkit.data.digit_tokens import DigitTokens as DigitTokens
from flowkit.data.digits import Digits as Digits
from flowkit.data.eight_gaussians import EightGaussians as EightGaussians
from flowkit.data.file import File as File
from flowkit.data.mnist import MNIST as MNIST
from flowkit.data.pinwheel import Pinwheel as Pinwheel
from flowkit.data.rings import Rings as Rings
from flowkit.data.sklearn_table import SklearnTable as SklearnTable
from flowkit.data.sphere_events import SphereEvents as SphereEvents
from flowkit.data.swiss_roll import SwissRoll as SwissRoll
from flowkit.data.two_moons import TwoMoons as TwoMoons
from flowkit.data.two_spirals import TwoSpirals as TwoSpirals
from flowkit.data.uci import UCI as UCI
