"""Pictures: functions return a matplotlib Figure, ``path_animation`` the bytes of a GIF; all leave pyplot alone."""

from flowkit.plots.calibration import coverage_plot, latent_qq
from flowkit.plots.curves import loss_curves
from flowkit.plots.density import density_2d
from flowkit.plots.energies import energies
from flowkit.plots.images import image_grid
from flowkit.plots.ramachandran import ramachandran
from flowkit.plots.sphere import sphere_map
from flowkit.plots.tables import marginals, pair_plot
from flowkit.plots.trajectories import path_animation, path_strip

__all__ = [
    "coverage_plot", "density_2d", "energies", "image_grid", "latent_qq", "loss_curves", "marginals", "pair_plot", "path_animation", "path_strip",
    "ramachandran", "sphere_map",
]  # fmt: skip
