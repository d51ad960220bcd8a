"""Pictures: every function returns a matplotlib Figure and leaves pyplot alone."""

from flowkit.plots.calibration import coverage_plot, latent_qq
from flowkit.plots.curves import loss_curves
from flowkit.plots.density import density_2d
from flowkit.plots.images import image_grid
from flowkit.plots.tables import marginals, pair_plot

__all__ = ["coverage_plot", "density_2d", "image_grid", "latent_qq", "loss_curves", "marginals", "pair_plot"]
