"""Defects of peer libraries as runnable measurements: ``benchmarks/peer_defects.py`` prints them, the tests assert them."""

from _peer_defects import freia_blocks, freia_maps, nflows_flows, nflows_maps, normflows_flows, normflows_maps, pyro_maps, zuko_inverses, zuko_rest
from _peer_defects.case import Defect, Outcome

__all__ = ["DEFECTS", "Defect", "Outcome"]

_FILES = (nflows_maps, nflows_flows, normflows_maps, normflows_flows, zuko_inverses, zuko_rest, freia_maps, freia_blocks, pyro_maps)
DEFECTS: list[Defect] = [defect for file in _FILES for defect in file.DEFECTS]
