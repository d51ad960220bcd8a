"""flowkit's modules seen as nflows'."""

from __future__ import annotations

import torch
from nflows.distributions.base import Distribution as NflowsDistribution
from nflows.flows.base import Flow as NflowsFlow
from nflows.transforms.base import InverseNotAvailable
from nflows.transforms.base import Transform as NflowsTransform
from torch import Tensor, nn

from flowkit.bijectors import Chain
from flowkit.core.distribution import Distribution
from flowkit.core.errors import NotInvertibleError
from flowkit.core.flow import Flow
from flowkit.core.shapes import expand_context
from flowkit.core.transform import Bijector


class AsNflowsTransform(NflowsTransform):
    """A flowkit bijector as an nflows transform: ``forward`` maps data to noise.

    Args:
        bijector: generates in its own ``forward``.
    """

    def __init__(self, bijector: Bijector) -> None:
        super().__init__()
        self.bijector = bijector

    def forward(self, inputs: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return self.bijector.inverse(inputs, self._wanted(context))

    def inverse(self, inputs: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Noise to data."""
        try:
            return self.bijector(inputs, self._wanted(context))
        except NotInvertibleError as error:
            raise InverseNotAvailable(str(error)) from error

    def _wanted(self, context: Tensor | None) -> Tensor | None:
        return None if self.bijector.context_shape is None else context


class AsNflowsDistribution(NflowsDistribution):
    """A flowkit distribution as nflows'.

    Args:
        distribution: a base, or a flow.
    """

    def __init__(self, distribution: Distribution) -> None:
        super().__init__()
        self.distribution = distribution

    def _log_prob(self, inputs: Tensor, context: Tensor | None) -> Tensor:
        return self.distribution.log_prob(inputs, _wanted(self.distribution, context))

    def _sample(self, num_samples: int, context: Tensor | None) -> Tensor:
        inner = self.distribution
        if context is None:
            return inner.rsample((num_samples,))
        if inner.context_shape is None:
            return inner.rsample((context.shape[0], num_samples))
        return inner.rsample((), expand_context(context.unsqueeze(1), inner.context_shape, (context.shape[0], num_samples)))

    def sample(self, num_samples: int, context: Tensor | None = None, batch_size: int | None = None) -> Tensor:
        """Samples (num_samples, ...), or (contexts, num_samples, ...); ``batch_size``: drawn so many at a time."""
        sizes = [num_samples]
        if batch_size is not None and isinstance(num_samples, int) and batch_size > 0:
            sizes = [min(batch_size, num_samples - start) for start in range(0, num_samples, batch_size)] or sizes
        parts = [NflowsDistribution.sample(self, size, context) for size in sizes]
        return torch.cat(parts, dim=0 if context is None else 1)  # nflows joins along the contexts, which loses which is which


class AsNflowsFlow(AsNflowsDistribution, NflowsFlow):
    """A flowkit flow as an nflows flow; ``_transform``, ``_distribution`` and ``_embedding_net`` are there for code that looks at them.

    Args:
        flow: the flow.
    """

    def __init__(self, flow: Flow) -> None:
        NflowsDistribution.__init__(self)
        self.distribution = flow

    @property
    def _flow(self) -> Flow:
        flow = self.distribution
        assert isinstance(flow, Flow)
        return flow

    @property
    def _transform(self) -> NflowsTransform:
        maps = [step for step in self._flow.maps if isinstance(step, Bijector)]
        return AsNflowsTransform(maps[0] if len(maps) == 1 else Chain(maps))

    @property
    def _distribution(self) -> NflowsDistribution:
        return AsNflowsDistribution(self._flow.base)

    @property
    def _embedding_net(self) -> nn.Module:
        return nn.Identity() if self._flow.embedding is None else self._flow.embedding

    def sample_and_log_prob(self, num_samples: int, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Samples and their log-densities from one pass."""
        flow = self._flow
        if context is None:
            return flow.sample_and_log_prob((num_samples,))
        if flow.context_shape is None:
            return flow.sample_and_log_prob((context.shape[0], num_samples))
        x, log_prob = flow.sample_and_log_prob((num_samples,), context)  # one embedding for each context
        return x.transpose(0, 1), log_prob.transpose(0, 1)

    def _sample(self, num_samples: int, context: Tensor | None) -> Tensor:
        if context is None or self._flow.context_shape is None:
            return super()._sample(num_samples, context)
        return self._flow.rsample((num_samples,), context).transpose(0, 1)

    def transform_to_noise(self, inputs: Tensor, context: Tensor | None = None) -> Tensor:
        """Data to latent."""
        return self._flow.to_latent(inputs, _wanted(self._flow, context))


def _wanted(distribution: Distribution, context: Tensor | None) -> Tensor | None:
    return None if distribution.context_shape is None else context
