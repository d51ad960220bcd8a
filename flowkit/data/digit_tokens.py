"""Handwritten digits as sequences of tokens."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from flowkit.core.errors import ConfigError
from flowkit.core.registry import DATA
from flowkit.data._dataset import Dataset, Split, _Parts
from flowkit.data.digits import Digits


@DATA.register("digit_tokens")
class DigitTokens(Dataset):
    """The 1,797 handwritten digits of scikit-learn, 8 x 8 pixels, each a token k in 0 .. 16, held as a float.

    The rows of every split are those of ``digits`` with the same seed, so code lengths in bits per dimension compare: there
    the pixels are dequantised, x = (k + u) / 17.

    Args:
        form: "vector" for events (64,), row by row; "image" for (1, 8, 8).
        classes: give the digit as context, an int64 label of 10.
        seed: of the split (10 % test, then 10 % validation).

    Attributes:
        vocabulary: number of levels of a token. levels: 1, what ``evaluation.bits_per_dim`` takes for data at the scale of k.
    """

    license = Digits.license
    source = Digits.source
    vocabulary = Digits.levels
    levels = 1

    def __init__(self, *, form: Literal["vector", "image"] = "vector", classes: bool = False, seed: int = 0) -> None:
        if form not in ("vector", "image"):
            raise ConfigError(f"DigitTokens: expected form 'vector' or 'image'; got {form!r}.")
        self.form, self.classes, self.seed = form, classes, seed

    def _load(self) -> _Parts:
        pixels = Digits(form=self.form, dequantize=False, classes=self.classes, seed=self.seed)
        train, validation, test = (Split((self.vocabulary * part.x).floor(), part.context) for part in (pixels.train, pixels.validation, pixels.test))
        return _Parts(train, validation, test)

    @classmethod
    def examples(cls) -> Iterator[tuple[str, DigitTokens]]:
        yield "vector", cls()
        yield "image_classes", cls(form="image", classes=True)
