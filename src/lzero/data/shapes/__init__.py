"""Shapes of rows: how the field's data sets and projects write a question, and how that becomes the row of a task.

A shape is a module: its NAME for messages, `matches` (whether a row has this shape) and `convert`, which returns the fields of a task row
(`lzero.data.fields`) and raises BadShape for a value of another form. Fields that a shape does not know are kept.
To add a shape, write its module and name it below.
"""

from typing import Protocol

from lzero.data.formats import Fields
from lzero.data.shapes import (
    bamboogle,
    competition_math,
    flashrag,
    gaia,
    gsm8k,
    hotpotqa,
    musique,
    popqa,
    search_r1,
    simpleqa,
    squad,
    trivia_qa,
    verl,
    wikitablequestions,
)
from lzero.data.shapes.parts import BadShape, Inline


class Shape(Protocol):
    """A way to write a question as a row."""

    NAME: str

    def matches(self, fields: Fields, /) -> bool: ...

    def convert(self, fields: Fields, /) -> Fields: ...


SHAPES: tuple[Shape, ...] = (
    *(search_r1, verl, flashrag, hotpotqa, musique, wikitablequestions, squad, trivia_qa, popqa),
    *(competition_math, simpleqa, gaia, bamboogle, gsm8k),
)
"""Every shape; a row has the first that matches."""

__all__ = ["SHAPES", "BadShape", "Inline", "Shape", "shape_of"]


def shape_of(fields: Fields) -> Shape | None:
    """Return the shape of a row; None for a row that names its fields as a task does, and for an unknown one."""
    return next((shape for shape in SHAPES if shape.matches(fields)), None)
