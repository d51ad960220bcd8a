"""What velocity fields of images share."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from flowkit.continuous._calls import check_call
from flowkit.core.shapes import Context
from flowkit.core.vector_field import VectorField


class ImageField(VectorField):
    """A network of (image, time, context) as velocity; a subclass makes ``net``."""

    net: Any

    def velocity(self, t: Tensor, x: Tensor, context: Context = None) -> Tensor:
        check_call(self, x, context)
        v: Tensor = self.net(x, t, context)
        return v
