"""Velocity fields on manifolds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from flowkit.continuous._calls import check_call, hidden_sizes, time_like
from flowkit.core.domain import Manifold
from flowkit.core.errors import ConfigError, ShapeError
from flowkit.core.registry import FIELDS
from flowkit.core.shapes import Context, whole_number
from flowkit.core.vector_field import VectorField
from flowkit.nets import MLP


@FIELDS.register("tangent_field")
class TangentField(VectorField):
    """A network's output at a point of a manifold, projected on the tangent space there.

        u(t, x) = P(x) net(e, sin 2e, cos 2e, ..., sin 2^octaves e, cos 2^octaves e, t, context),   e = embed(x)

    ``embed`` gives smooth coordinates of the manifold in [-1, 1]: x itself on a sphere, cosines and sines of the angles on a torus, the
    nine entries of a rotation, so u has no seam. The waves let a small network resolve densities that are narrow against the manifold.
    The divergence is that of the manifold and not a trace in R^D: see ``numerics.manifold_ode.velocity_and_divergence``.

    Args:
        domain: a manifold: ``Sphere``, ``Torus``, ``SO3``.
        hidden: widths of the hidden layers of the default network, an MLP of (embed(x), t, context).
        context_features: size of the context's last axis.
        activation: of the default network; smooth ones give densities without kinks.
        octaves: of waves that the default network reads beside the coordinates; 0 for none.
        field: a velocity field of the manifold's event shape to project instead, which reads x itself.

    Shapes: t () or (*B), x (*B, *event), context (*B, context_features) -> (*B, *event).

    Raises:
        ConfigError: the domain is no manifold. ShapeError: ``field`` is of another event shape.

    Reference: Chen and Lipman (2024), Flow matching on general geometries, arXiv:2302.03660.

    Example:
        >>> import torch
        >>> from flowkit.continuous import TangentField
        >>> from flowkit.core.domain import Sphere
        >>> x = Sphere(2).uniform(4, torch.Generator().manual_seed(0))
        >>> bool(((TangentField(Sphere(2)).velocity(torch.tensor(0.3), x) * x).sum(-1).abs() < 1e-6).all())
        True
    """

    def __init__(
        self,
        domain: Manifold,
        hidden: Sequence[int] = (64, 64),
        *,
        context_features: int = 0,
        activation: str = "silu",
        octaves: int = 3,
        field: VectorField | None = None,
    ) -> None:
        super().__init__()
        if not isinstance(domain, Manifold):
            raise ConfigError(f"TangentField: expected a manifold such as Sphere(2), Torus(2) or SO3(); got {domain!r}. In R^n use MLPField.")
        self.domain, self.activation, self.hidden = domain, activation, hidden_sizes(hidden, "TangentField")
        self.event_shape = domain.event_shape
        if field is not None and tuple(field.event_shape) != tuple(domain.event_shape):
            raise ShapeError(f"TangentField: expected a field of event shape {tuple(domain.event_shape)}, that of {domain}; got {tuple(field.event_shape)}.")
        if field is not None and context_features:
            raise ConfigError("TangentField: field= brings its own context; drop context_features=.")
        self.context_features = whole_number(context_features, "TangentField", "context_features", 0)
        self.octaves, self.field = whole_number(octaves, "TangentField", "octaves", 0), field
        size = torch.Size(self.event_shape).numel()  # type: ignore[arg-type]
        self.net: nn.Module | None = None
        if field is None:
            self.net = MLP(domain.coordinates * (1 + 2 * self.octaves) + 1, size, self.hidden, context_features=self.context_features, activation=activation)
        self.context_shape = field.context_shape if field is not None else (self.context_features,) if self.context_features else None

    def velocity(self, t: Tensor, x: Tensor, context: Context = None) -> Tensor:
        check_call(self, x, context)
        if self.field is not None:
            return self.domain.project_tangent(x, self.field.velocity(t, x, context))
        assert self.net is not None
        place = self.domain.embed(x)
        time = time_like(t, x).unsqueeze(-1).expand(*place.shape[:-1], 1)
        waves = [wave(2.0**k * place) for k in range(1, self.octaves + 1) for wave in (torch.sin, torch.cos)]
        return self.domain.project_tangent(x, self.net(torch.cat([place, *waves, time], dim=-1), context).reshape(x.shape))

    @classmethod
    def examples(cls) -> Iterator[tuple[str, TangentField]]:
        from flowkit.core.domain import SO3, Sphere, Torus

        yield "sphere", cls(Sphere(2), (8, 8))
        yield "torus_conditional", cls(Torus(2), (8,), context_features=2)
        yield "rotations", cls(SO3(), (8,))
