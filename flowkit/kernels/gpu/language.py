"""Triton and its language, or stand-ins where it is not installed, so that the kernel files can always be imported and read."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any


def _found() -> tuple[Any, Callable[[Any], Any], Callable[[Any], Any]]:
    try:
        import triton
        from triton import language
    except ImportError:
        return None, lambda function: function, lambda value: value
    return language, triton.jit, language.constexpr


if TYPE_CHECKING:
    from triton import jit
    from triton import language as tl
    from triton.language import constexpr as constant
else:
    tl, jit, constant = _found()  # the language; the decorator of functions on the device; and what their global numbers must be
