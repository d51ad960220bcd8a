"""Masked networks evaluated as their inputs become known: every unit once, as soon as all it reads is there.

Inverting an autoregressive map makes the inputs known level by level. A unit of a masked net is ready at the level after the
last input it can see, so with the units of each layer sorted by that level every weight matrix is block lower triangular:
a level multiplies the rows of the units that become ready with the columns of the units that are ready by then. All levels
together multiply no more than one pass does.
"""

from __future__ import annotations

import math
import operator
from array import array
from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import NamedTuple

import torch
from torch import Tensor, nn

from flowkit.core.checks import runs_eagerly

Levels = Sequence[Sequence[int]]


class Layer(NamedTuple):
    """One layer as it stands now.

    Attributes:
        weight: (units, units before); what ``mask`` holds at zero does not count.
        bias: (units,); or None.
        mask: (units, units before), numbers 0 and 1; or None for a weight that is masked.
        offset: (N, units) added to the bias, such as what a context contributes; or None.
    """

    weight: Tensor
    bias: Tensor | None
    mask: Tensor | None = None
    offset: Tensor | None = None

    def masked(self) -> Tensor:
        """The weight, zero where the mask is."""
        return self.weight if self.mask is None else self.mask * self.weight


class Stack(NamedTuple):
    """A masked network as it stands now, and when its units are ready.

    Attributes:
        steps: which units each level makes ready.
        layers: in order; the activation comes between them.
        act: the activation.
        skip: (outputs, inputs), without a bias: from the inputs straight to the outputs.
        bare: no activation before the last layer.
    """

    steps: Steps
    layers: Sequence[Layer]
    act: Callable[[Tensor], Tensor]
    skip: Layer | None = None
    bare: bool = False


class Steps(nn.Module):
    """When the units of a stack of masked layers are ready, if inputs become known level by level.

    Args:
        masks: boolean matrices (out, in) of the layers, without columns for a context.
        levels: the inputs by the level that makes them known. Outputs belong to inputs: equally many to each, in order; those of
            a level's inputs must not see inputs of that level or a later one.
        adds: numbers of the layers, from 1, that add the values of two layers before.
    """

    def __init__(self, masks: Sequence[Tensor], levels: Levels, adds: Sequence[int] = ()) -> None:
        super().__init__()
        order = torch.tensor([i for level in levels for i in level])
        ready = torch.empty(len(order), dtype=torch.long)
        for number, level in enumerate(levels):
            ready[list(level)] = number + 1
        self.adds, self.sizes, orders, readies = tuple(adds), [[len(level) for level in levels]], [order], [ready]
        for number, mask in enumerate(masks[:-1], 1):
            ready = torch.where(mask, ready, 0).amax(1)
            if number in adds:
                ready = torch.maximum(ready, readies[number - 2])
            used = ready < len(levels)  # the others see the last level, which no output depends on
            readies.append(ready)
            orders.append(ready.argsort(stable=True)[: int(used.sum())])
            self.sizes.append(torch.bincount(ready[used], minlength=len(levels)).tolist())
        self.per_input = len(masks[-1]) // len(order)
        orders.append((order[:, None] * self.per_input + torch.arange(self.per_input)).flatten())
        self.sizes.append([self.per_input * len(level) for level in levels])
        for number, (index, width) in enumerate(zip(orders, [masks[0].shape[1], *map(len, masks)], strict=True)):
            in_place = len(index) == width and bool((index == torch.arange(width)).all())
            self.register_buffer(f"order_{number}", None if in_place else index, persistent=False)
        places = {}
        for number in adds:
            place = torch.zeros(len(masks[number - 1]), dtype=torch.long)
            place[orders[number - 2]] = torch.arange(len(orders[number - 2]))
            places[number] = place[orders[number]]
            self.register_buffer(f"added_{number}", places[number], persistent=False)
        self.plan, known = _plan(orders, self.sizes, places), _known(self.sizes)
        self.dense = [_is_dense(mask, orders[n + 1].split(self.sizes[n + 1]), orders[n], known[n]) for n, mask in enumerate(masks)]
        self.products = sum(sum(map(operator.mul, here, before)) for here, before in zip(self.sizes[1:], known, strict=True))

    def sorted_inputs(self, device: torch.device) -> Tensor:
        """The inputs in the order in which they become known."""
        return self.sort(torch.arange(sum(self.sizes[0]), device=device), 0, 0)

    def sort(self, tensor: Tensor, axis: int, layer: int) -> Tensor:
        """Bring an axis over the units of a layer (0: the inputs) into the order in which they become ready."""
        order: Tensor | None = getattr(self, f"order_{layer}")
        return tensor if order is None else tensor.index_select(axis, order)

    def added(self, layer: int) -> Sequence[Tensor]:
        """By level: where a layer's units find, among the sorted ones of two layers before, what they add."""
        return getattr(self, f"added_{layer}").split(self.sizes[layer])  # type: ignore[no-any-return]


def _plan(orders: Sequence[Tensor], sizes: Sequence[Sequence[int]], places: dict[int, Tensor]) -> array[int]:
    """What cpu/stepped.h reads."""
    numbers = [len(sizes[0]), len(orders) - 1, sizes[-1][0] // sizes[0][0]]
    for order, level_sizes in zip(orders, sizes, strict=True):
        numbers += [len(order), *level_sizes, *order.tolist()]
    for number in range(1, len(orders) - 1):
        numbers += [1, *places[number].tolist()] if number in places else [0]
    return array("q", numbers)  # on the CPU whatever the device: not a tensor


def _is_dense(mask: Tensor, rows: Sequence[Tensor], columns: Tensor, known: Sequence[int]) -> bool:
    """Whether nothing is masked in the blocks of weights that levels multiply: their rows, over so many of the sorted columns."""
    return all(bool(mask[part][:, columns[:count]].all()) for part, count in zip(rows, known, strict=True))


def _known(sizes: Sequence[Sequence[int]]) -> list[list[int]]:
    """For each layer how many of its inputs are known at every level: the first layer's become known at its end."""
    return [list(accumulate(before)) if number else [0, *accumulate(before)][:-1] for number, before in enumerate(sizes[:-1])]


class Run:
    """One evaluation, going on level by level.

    Args:
        stack: the network.
        like: (*B, inputs): the batch to come.
    """

    def __init__(self, stack: Stack, like: Tensor) -> None:
        self.stack, self._like, self._level = stack, like, 0

    def _begin(self) -> None:
        """Sort the weights."""
        (steps, layers, self._act, skip, bare), like = self.stack, self._like
        self._bare = len(layers) - 1 if bare else None
        self._batch, self._per_input, self._sizes = like.shape[:-1], steps.per_input, steps.sizes
        self._weights, self._starts = [], []
        for number, layer in enumerate(layers, 1):
            assert layer.bias is not None
            weight = steps.sort(steps.sort(layer.masked(), 0, number), 1, number - 1)
            self._weights.append(weight.split(steps.sizes[number]))
            # units are rows: those of a level are one block of memory, and products of few rows are fast
            start = layer.bias.unsqueeze(-1) if layer.offset is None else (layer.bias + layer.offset).t()
            self._starts.append(steps.sort(start, 0, number).split(steps.sizes[number]))
        self._skip = None if skip is None else steps.sort(steps.sort(skip.masked(), 0, len(layers)), 1, 0).split(steps.sizes[-1])
        rows, in_place = math.prod(self._batch), _may_write()
        self._known = [_Rows(like, sum(sizes), rows, in_place) for sizes in steps.sizes[:-1]]
        self._added = {number: steps.added(number) for number in steps.adds}
        self._values = {number - 2: _Rows(like, sum(steps.sizes[number - 2]), rows, in_place) for number in steps.adds}

    def next(self, solved: Tensor | None) -> Tensor:
        """The outputs of the next level, given the values of the level before: (*B, inputs there) -> (*B, inputs here, per input)."""
        if self._level == 0:
            self._begin()
        level, known = self._level, self._known
        self._level += 1
        if solved is not None:
            known[0].extend(solved.reshape(-1, solved.shape[-1]).t())
        for number in range(1, len(known)):
            if self._sizes[number][level]:
                value = self._product(number, level)
                if number in self._added:
                    value = value + self._values[number - 2].rows.index_select(0, self._added[number][level])
                if number in self._values:
                    self._values[number].extend(value)
                known[number].extend(value if number == self._bare else self._act(value))
        out = self._product(len(known), level)
        if self._skip is not None and level:
            out = torch.addmm(out, self._skip[level].narrow(1, 0, known[0].count), known[0].rows)
        return out.t().contiguous().reshape(*self._batch, self._sizes[0][level], self._per_input)

    def _product(self, number: int, level: int) -> Tensor:
        below = self._known[number - 1]
        return torch.addmm(self._starts[number - 1][level], self._weights[number - 1][level].narrow(1, 0, below.count), below.rows)


class _Rows:
    """A matrix (units, N) that grows by rows: in one piece of memory where nothing is recorded, else by concatenation."""

    def __init__(self, like: Tensor, most: int, width: int, in_place: bool) -> None:
        self._memory = like.new_empty(most, width) if in_place else None
        self.count, self.rows = 0, like.new_empty(0, width) if self._memory is None else self._memory[:0]

    def extend(self, part: Tensor) -> None:
        before, more = self.count, part.shape[0]
        self.count = before + more
        if self._memory is None:
            self.rows = torch.cat([self.rows, part]) if before else part
        else:
            self._memory.narrow(0, before, more).copy_(part)
            self.rows = self._memory.narrow(0, 0, self.count)


def _may_write() -> bool:
    """Whether a tensor that was already used may grow in place: no gradient, tangent or batch of functorch passes through it."""
    return runs_eagerly() and not torch.is_grad_enabled() and torch.autograd.forward_ad._current_level < 0 and not torch.jit.is_tracing()
