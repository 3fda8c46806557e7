"""Bamboogle's rows: `{"Question": …, "Answer": …}`, each of two hops."""

from lzero.data.formats import Fields
from lzero.data.shapes.parts import others

NAME = "Bamboogle"


def matches(fields: Fields) -> bool:
    return "Question" in fields and "Answer" in fields


def convert(fields: Fields) -> Fields:
    found = others(fields, "Question", "Answer")
    return found | {"question": fields["Question"], "answer": fields["Answer"], "hops": 2}
