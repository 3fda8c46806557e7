"""What a benchmark has measured: figures, how far they should reach, and the table of them."""

import os
import platform
import sys
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Figure:
    """One line of the table. `reached` is None where nothing is promised."""

    name: str
    value: float
    unit: str
    reach: str = ""
    reached: bool | None = None


def at_most(name: str, value: float, unit: str, limit: float) -> Figure:
    return Figure(name, value, unit, f"≤ {limit:g} {unit}".rstrip(), value <= limit)


def at_least(name: str, value: float, unit: str, limit: float) -> Figure:
    return Figure(name, value, unit, f"≥ {limit:g} {unit}".rstrip(), value >= limit)


def table(figures: Sequence[Figure]) -> str:
    processor = platform.processor() or platform.machine()
    lines = [f"{processor}, {os.cpu_count()} cores, Linux {platform.release()}, Python {sys.version.split()[0]}"]
    for figure in figures:
        verdict = {None: "", True: "reached", False: "MISSED"}[figure.reached]
        lines.append(f"{figure.name:<66} {figure.value:10,.2f} {figure.unit:<4} {figure.reach:<10} {verdict}".rstrip())
    return "\n".join(lines)
