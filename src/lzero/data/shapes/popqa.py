"""PopQA's rows: a question about a fact of Wikidata.

{"id": …, "subj": …, "prop": …, "obj": …, "question": …, "possible_answers": "[\\"politician\\", …]", …}
"""

from lzero.data.formats import Fields
from lzero.data.shapes.parts import items, others

NAME = "PopQA"
_USED = ("possible_answers", "s_aliases", "o_aliases")


def matches(fields: Fields) -> bool:
    return "question" in fields and "possible_answers" in fields


def convert(fields: Fields) -> Fields:
    """Raises BadShape."""
    return others(fields, *_USED) | {"answers": list(items("possible_answers", fields["possible_answers"]))}
