"""MuSiQue's rows.

{"id": "2hop__482757_12019", "question": …, "answer": …, "answer_aliases": […], "answerable": true,
 "paragraphs": [{"idx": 0, "title": …, "paragraph_text": …, "is_supporting": false}, …], "question_decomposition": […]}
"""

from lzero.data.formats import Fields
from lzero.data.shapes.parts import items, others, table, titles

NAME = "MuSiQue"


def matches(fields: Fields) -> bool:
    paragraphs = fields.get("paragraphs")
    if "question_decomposition" in fields:
        return "question" in fields and isinstance(paragraphs, list)
    first = paragraphs[0] if isinstance(paragraphs, list) and paragraphs else None
    return isinstance(first, dict) and "paragraph_text" in first


def convert(fields: Fields) -> Fields:
    """Raises BadShape."""
    found = others(fields, "paragraphs", "answer_aliases", "question_decomposition")
    paragraphs = [
        table(f"paragraphs[{index}]", each) for index, each in enumerate(items("paragraphs", fields["paragraphs"]))
    ]
    found["passages"] = [{"title": each.get("title"), "text": each.get("paragraph_text")} for each in paragraphs]
    found |= titles([each.get("title") for each in paragraphs if each.get("is_supporting") is True])
    aliases, steps = fields.get("answer_aliases"), fields.get("question_decomposition")
    if aliases is not None:
        found["aliases"] = aliases
    if isinstance(steps, list) and steps:
        found["hops"] = len(steps)
    return found
