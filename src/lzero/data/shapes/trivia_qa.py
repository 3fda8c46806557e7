"""TriviaQA's rows. Its documents (`entity_pages`, `search_results`) are not read.

{"question_id": …, "question": …, "answer": {"value": …, "aliases": […], …}}     as Parquet
{"QuestionId": …, "Question": …, "Answer": {"Value": …, "Aliases": […], …}}      as published
"""

from lzero.data.formats import Fields
from lzero.data.shapes.parts import items, others, table

NAME = "TriviaQA"
UNKNOWN = "<unk>"
"""The answer of a question whose answer is not public."""
_USED = ("Question", "QuestionId", "Answer", "question_id", "answer")


def matches(fields: Fields) -> bool:
    answer = fields.get("answer", fields.get("Answer"))
    return isinstance(answer, dict) and any(name in answer for name in ("value", "Value", "aliases", "Aliases"))


def convert(fields: Fields) -> Fields:
    """Raises BadShape."""
    answer = table("answer", fields.get("answer", fields.get("Answer")))
    value = answer.get("value", answer.get("Value"))
    aliases = items("answer.aliases", answer.get("aliases", answer.get("Aliases")) or [])
    found = others(fields, *_USED)
    found["question"] = fields.get("question", fields.get("Question"))
    found["answer"] = None if value == UNKNOWN else value
    found["aliases"] = aliases
    identifier = fields.get("question_id", fields.get("QuestionId"))
    return found if identifier is None else found | {"id": identifier}
