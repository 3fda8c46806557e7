"""SQuAD's rows.

{"id": …, "title": …, "context": …, "question": …, "answers": {"text": […], "answer_start": […]}}
"""

from lzero.data.formats import Fields
from lzero.data.shapes.parts import items, others, table

NAME = "SQuAD"


def matches(fields: Fields) -> bool:
    answers = fields.get("answers")
    return (
        "question" in fields
        and isinstance(fields.get("context"), str)
        and isinstance(answers, dict)
        and "text" in answers
    )


def convert(fields: Fields) -> Fields:
    """Raises BadShape."""
    texts = items("answers.text", table("answers", fields["answers"])["text"])
    passage = {"title": fields.get("title"), "text": fields["context"]}
    return others(fields, "context", "title", "answers") | {"answers": texts, "passages": [passage]}
