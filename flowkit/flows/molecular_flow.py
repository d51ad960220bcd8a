"""Flows over the structures of a molecule."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor

from flowkit.bijectors import Chain, Concat, Identity, InternalCoordinates
from flowkit.core.errors import ConfigError
from flowkit.core.flow import Flow
from flowkit.core.registry import FLOWS
from flowkit.core.shapes import check_event, positive, positive_number, positive_sizes
from flowkit.flows._molecular_layers import WHO, CoordinateMaps, Layout, base_of, shape_maps


@FLOWS.register("molecular_flow")
class MolecularFlow(Flow):
    """A density of structures x (N, 3) by bond lengths, angles and dihedrals: couplings with splines, circular ones for torsions.

    Of the 3N numbers, 3N - 6 describe the shape and are modelled. The position of the seed atom is uniform in a cube and the orientation
    uniform over rotations, so log q(x) is the log-density of the shape plus a constant, and minus infinity with the seed atom outside of
    the cube; ``centred`` puts it in the middle. Weights against an energy that rigid motions leave alone depend on the shape only, and
    log Z counts all orientations and the volume of the cube.

    1. Shape: torsions are uniform on the circle in latent space, all other numbers standard normal. Each layer maps a random half of them
       given the other half; then local numbers are mixed linearly and torsions turned.
    2. A length, an angle or a local dihedral is centre + scale y, a torsion is centre + t; then ``InternalCoordinates``, with its volume.

    A density in float32 takes single-precision positions in nanometres: some 1e-7 nm, 1e-4 of a bond's spread.

    Args:
        z_matrix: rows of the full form, one seed atom, as ``InternalCoordinates.from_bonds`` makes.
        centre: of the 3N - 6 numbers of the shape: bond lengths (nm), angles but that of the row of two, dihedrals of the rows of four
            (radians), each in the order of the rows, as ``shape_of`` takes them from structures; by default ``fit`` measures them.
        scale: their standard deviations, roughly; those of torsions are not used.
        circular: for each dihedral of a row of four, whether it is on the circle; default torsions are, impropers are not.
        layers: couplings; hidden: widths of their nets; bins: of the splines.
        box: edge of the cube, nm.

    Raises:
        ConfigError: rows not of the full form; centres and scales of a wrong number, or too wide for their domain.

    Example:
        >>> import torch
        >>> from flowkit.flows import MolecularFlow
        >>> flow = MolecularFlow([(1, 0), (2, 0, 1)], torch.tensor([0.1, 0.1, 1.8]), torch.tensor([0.003, 0.003, 0.1]), layers=2)
        >>> x, log_prob = flow.sample_and_log_prob((4,), generator=torch.Generator().manual_seed(0))
        >>> tuple(x.shape), bool(((x[:, 1] - x[:, 0]).norm(dim=-1) - 0.1).abs().max() < 0.03)
        ((4, 3, 3), True)

    Reference: Noe et al. (2019), Boltzmann generators, arXiv:1812.01729; Midgley et al. (2023), Flow annealed importance sampling
    bootstrap, arXiv:2208.01893, appendix (circular splines for torsions); Rezende et al. (2020), arXiv:2002.02428.
    """

    fitted: Tensor

    def __init__(
        self,
        z_matrix: Sequence[Sequence[int]],
        centre: Tensor | None = None,
        scale: Tensor | None = None,
        circular: Sequence[bool] | None = None,
        *,
        layers: int = 8,
        hidden: Sequence[int] = (128, 128),
        bins: int = 8,
        box: float = 1.0,
    ) -> None:
        internal = InternalCoordinates(z_matrix)
        layout = Layout(internal, circular)
        given = self._constants(layout, centre, scale)
        layers, hidden, bins = positive(layers, WHO, "layers"), positive_sizes(hidden, WHO, "hidden"), positive(bins, WHO, "bins")
        latent = Concat([shape_maps(layout, layers, hidden, bins), Identity((len(layout.rigid),))])
        maps = CoordinateMaps(layout, *given)
        super().__init__(base_of(layout, positive_number(box, WHO, "box")), Chain([latent, maps.chain, internal]))
        self.z_matrix, self.centre, self.scale, self.circular = z_matrix, centre, scale, circular
        self.layers, self.hidden, self.bins, self.box = layers, hidden, bins, box
        self._layout, self._maps = layout, maps
        self.register_buffer("fitted", torch.tensor(centre is not None))

    @staticmethod
    def _constants(layout: Layout, centre: Tensor | None, scale: Tensor | None) -> tuple[Tensor, Tensor]:
        if centre is None or scale is None:
            if centre is not scale:
                raise ConfigError(f"{WHO}: expected centre and scale both, or neither.")
            return layout.defaults()
        layout.check(centre, scale)
        return centre, scale

    def set_standardizer(self, chunks: Iterable[Tensor]) -> None:
        """Set centres and scales from structures in chunks (n, N, 3), unless they were given or set before; ``fit`` calls this once."""
        if not bool(self.fitted):
            with torch.no_grad():
                self._maps.set(*self._layout.measure(self.shape(chunk) for chunk in chunks))
            self.fitted.fill_(True)

    def centre_on(self, centre: Tensor, scale: Tensor | None = None) -> None:
        """Set centres, and scales, default those of lengths, angles and dihedrals at room temperature: (3N - 6) each."""
        centre = centre.detach().cpu()
        usual = torch.minimum(self._layout.defaults()[1].to(centre), self._layout.widest(centre))
        scale = usual if scale is None else scale.detach().cpu()
        self._layout.check(centre, scale)
        self._maps.set(centre, scale)
        self.fitted.fill_(True)

    @property
    def internal(self) -> InternalCoordinates:
        """The map from internal to Cartesian coordinates."""
        step = self.bijector.transforms[-1]  # type: ignore[index,union-attr]
        assert isinstance(step, InternalCoordinates)
        return step

    def centred(self, x: Tensor) -> Tensor:
        """Structures moved so that the seed atom is in the middle of the cube: (*B, N, 3) -> (*B, N, 3)."""
        check_event(x, self.event_shape, f"{self.who}.centred")
        return x - x.index_select(-2, self.internal.seed_atoms)

    def shape(self, x: Tensor) -> Tensor:
        """The numbers of the shape: (*B, N, 3) -> (*B, 3N - 6), lengths, angles and dihedrals as in ``centre``."""
        check_event(x, self.event_shape, f"{self.who}.shape")
        return self.internal.inverse(x)[0][..., self._layout.shape]

    @staticmethod
    def shape_of(z_matrix: Sequence[Sequence[int]], x: Tensor) -> Tensor:
        """``shape`` of structures for a z-matrix, without a flow: (*B, N, 3) -> (*B, 3N - 6)."""
        internal = InternalCoordinates(z_matrix).to(x)
        return internal.inverse(x)[0][..., Layout(internal, None).shape]

    @classmethod
    def examples(cls) -> Iterator[tuple[str, MolecularFlow]]:
        chain = [(1, 0), (2, 1, 0), (3, 2, 1, 0), (4, 2, 1, 3)]
        centre = torch.tensor([0.15, 0.15, 0.14, 0.12, 2.0, 1.9, 2.1, 0.5, 3.1])
        scale = torch.tensor([0.01] * 4 + [0.1] * 3 + [1.0, 0.1])
        yield "branched", cls(chain, centre, scale, layers=2, hidden=(8,), bins=4, box=20.0)
        yield "three_atoms", cls([(1, 0), (2, 0, 1)], torch.tensor([0.1, 0.1, 1.8]), torch.tensor([0.005, 0.005, 0.1]), layers=1, hidden=(8,), bins=4, box=20.0)
