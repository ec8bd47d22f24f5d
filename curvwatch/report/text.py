"""Names, paths and numbers as a terminal may show them."""

from __future__ import annotations

import math
import re


def printable(text: object) -> str:
    """`text` on one line, with control characters, and those that turn its direction, as escapes."""
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode()
        for c in str(text)
    )


def natural(name: str) -> list[tuple[int, str]]:
    """A key that sorts version_2 before version_10."""
    return [(int(p), "") if p.isdecimal() else (-1, p) for p in re.split(r"(\d+)", name)]


def number(value: float, digits: int = 3) -> str:
    """A number in few characters: 1,234, 0.0123, 1.2e-05."""
    if not math.isfinite(value):
        return str(value)
    size = abs(value)
    if size and (size >= 1e6 or size < 1e-3):
        return format(value, f".{digits - 1}e").replace("e-0", "e-").replace("e+0", "e")
    return f"{value:,.0f}" if size >= 1000 else format(value, f".{digits}g")
