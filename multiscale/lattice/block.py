"""A box of elements of the macro grid, as the user writes it: ``i0:i1,j0:j1,k0:k1``."""

from __future__ import annotations

import re
from dataclasses import dataclass

from micro.runtime.errors import InputError

Triple = tuple[int, int, int]

_RANGE = re.compile(r"\s*(\d*)\s*:\s*(\d*)\s*")
_SYNTAX = "a region is i0:i1,j0:j1,k0:k1 in elements, upper ends excluded; an empty end means the grid's"


@dataclass(frozen=True)
class Block:
    """Elements (i, j, k) with ``lower <= (i, j, k) < upper``.

    Attributes
    ----------
    lower, upper : tuple of three int
        First element, and the one after the last, on each axis.
    """

    lower: Triple
    upper: Triple

    def __post_init__(self) -> None:
        if any(not 0 <= a < b for a, b in zip(self.lower, self.upper, strict=True)):
            raise InputError(
                f"{_SYNTAX}; every range holds at least one element", key="region", value=str(self)
            )

    @classmethod
    def whole(cls, shape: Triple) -> Block:
        """The whole grid of ``shape`` elements."""
        return cls((0, 0, 0), shape)

    @classmethod
    def parse(cls, text: str | None, shape: Triple) -> Block:
        """Read ``i0:i1,j0:j1,k0:k1`` against a grid of ``shape`` elements; None is the whole grid.

        Raises
        ------
        InputError
            If the text is not a region, or the region is empty or leaves the grid.

        Examples
        --------
        >>> Block.parse("0:4, :, 2:", (8, 5, 6))
        Block(lower=(0, 0, 2), upper=(4, 5, 6))
        """
        if text is None:
            return cls.whole(shape)
        parts = [_RANGE.fullmatch(part) for part in text.split(",")]
        if len(parts) != 3 or any(part is None for part in parts):
            raise InputError(_SYNTAX, key="region", value=text)
        low, high = [], []
        for part, size in zip(parts, shape, strict=True):
            assert part is not None
            low.append(int(part[1] or 0))
            high.append(int(part[2] or size))
        block = cls((low[0], low[1], low[2]), (high[0], high[1], high[2]))
        block.check_inside(shape)
        return block

    @classmethod
    def of(cls, block: Block | None, shape: Triple) -> Block:
        """A block of a grid of ``shape`` elements, the whole grid if there is none.

        Raises
        ------
        InputError
            If it leaves the grid.
        """
        if block is None:
            return cls.whole(shape)
        block.check_inside(shape)
        return block

    def check_inside(self, shape: Triple) -> None:
        """Raise InputError unless the block lies within a grid of ``shape`` elements.

        Raises
        ------
        InputError
            Otherwise.
        """
        if any(b > size for b, size in zip(self.upper, shape, strict=True)):
            whole = ",".join(f"0:{size}" for size in shape)
            raise InputError(f"the region leaves the grid {whole}", key="region", value=str(self))

    @property
    def shape(self) -> Triple:
        """Elements along each axis."""
        (a, b, c), (d, e, f) = self.lower, self.upper
        return (d - a, e - b, f - c)

    @property
    def slices(self) -> tuple[slice, slice, slice]:
        """The block as an index into an element array ``(nx, ny, nz)``."""
        (a, b, c), (d, e, f) = self.lower, self.upper
        return slice(a, d), slice(b, e), slice(c, f)

    def __str__(self) -> str:
        return ",".join(f"{a}:{b}" for a, b in zip(self.lower, self.upper, strict=True))
