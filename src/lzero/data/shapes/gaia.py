"""GAIA's rows. `Annotator Metadata` tells how people found the answer, and is not read.

{"task_id": …, "Question": …, "Level": 1, "Final answer": …, "file_name": "x.pdf", "Annotator Metadata": {…}}
"""

from lzero.data.formats import Fields
from lzero.data.shapes.parts import level, others

NAME = "GAIA"
UNKNOWN = "?"
"""The answer of a question whose answer is not public."""
_USED = ("task_id", "Question", "Level", "Final answer", "file_name", "file_path", "Annotator Metadata")


def matches(fields: Fields) -> bool:
    return "Question" in fields and "Final answer" in fields


def convert(fields: Fields) -> Fields:
    answer, name = fields["Final answer"], fields.get("file_name")
    found = others(fields, *_USED) | {"question": fields["Question"], "answer": None if answer == UNKNOWN else answer}
    optional = {"id": fields.get("task_id"), "difficulty": level(fields.get("Level")), "files": name or None}
    found["ability"] = "files" if name else "search"
    return found | {field: value for field, value in optional.items() if value is not None}
