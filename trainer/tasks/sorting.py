"""Numbers to be put in order: `52 17 38<` is answered by `173852` (ascending), `4152>` by `5421` (descending).

A level says how many numbers there are and how many digits each has. All have the same number of digits, so that an answer
needs nothing between them: it stays within what the demo policy may write.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import ClassVar

from trainer.tasks.generated import Generated
from trainer.types import Problem

SHAPES: Mapping[int, tuple[int, int]] = MappingProxyType({1: (4, 1), 2: (7, 1), 3: (2, 2), 4: (3, 2), 5: (2, 3)})
"""Per level: how many numbers, and digits of each; leading zeros are written."""


@dataclass(frozen=True)
class Sorting(Generated):
    """The task; numbers may repeat. See `SHAPES` for its levels."""

    levels: Sequence[int] = (4, 5)
    name: str = field(default="sorting", init=False)
    last_level: ClassVar[int] = max(SHAPES)

    def level_size(self, level: int) -> int:
        """Return the number of lists of so many numbers, for either order."""
        count, digits = SHAPES[level]
        return int(2 * 10 ** (count * digits))

    def draw(self, generator: random.Random, level: int) -> Problem:
        """Return a problem, all of the level being equally likely."""
        count, digits = SHAPES[level]
        numbers = [f"{generator.randrange(10**digits):0{digits}}" for _ in range(count)]
        order = generator.choice("<>")
        shown = (" " if digits > 1 else "").join(numbers) + order
        answer = "".join(sorted(numbers, reverse=order == ">"))
        return Problem(key=f"sorting/{shown}", prompt=shown, answer=answer, level=level)
