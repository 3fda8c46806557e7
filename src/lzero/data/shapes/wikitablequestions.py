r"""WikiTableQuestions' rows: a question about a table, which becomes a file of the task.

    {"id": …, "question": …, "answers": ["Italy"], "table": {"header": […], "rows": [[…], …], "name": …}}    as Parquet
    {"id": …, "utterance": …, "context": "csv/200-csv/1.csv", "targetValue": "Italy|Spain"}                as published

Several values are one answer, in their order: "Italy, Spain". As published, a value writes `\n` for a line break, `\p` for `|` and `\\` for
a backslash.
"""

import csv
import io
import re
from collections.abc import Sequence

from lzero.data.formats import Fields
from lzero.data.shapes.parts import BadShape, Inline, items, others, table
from lzero.data.values import shown

NAME = "WikiTableQuestions"
FILE = "table.csv"
_ESCAPES = {"\\n": "\n", "\\p": "|", "\\\\": "\\"}
_ESCAPE = re.compile(r"\\[np\\]")


def matches(fields: Fields) -> bool:
    inner = fields.get("table")
    return ("utterance" in fields and "targetValue" in fields and "context" in fields) or (
        "question" in fields
        and "answers" in fields
        and isinstance(inner, dict)
        and "header" in inner
        and "rows" in inner
    )


def convert(fields: Fields) -> Fields:
    """Raises BadShape."""
    if "utterance" in fields:
        return _as_published(fields)
    values = items("answers", fields["answers"])
    found = others(fields, "table", "answers")
    return found | {"answer": _together(values), "ability": "data", "files": [Inline(FILE, _csv(fields["table"]))]}


def _as_published(fields: Fields) -> Fields:
    question, target = fields["utterance"], fields["targetValue"]
    if not isinstance(question, str) or not isinstance(target, str):
        wrong = "targetValue" if isinstance(question, str) else "utterance"
        raise BadShape(wrong, f"holds {shown(fields[wrong])}: give a text")
    found = others(fields, "utterance", "context", "targetValue")
    values = [_unescaped(value) for value in target.split("|")]
    return found | {
        "question": _unescaped(question),
        "answer": _together(values),
        "ability": "data",
        "files": fields["context"],
    }


def _together(values: Sequence[object]) -> str:
    texts = [value for value in values if isinstance(value, str)]
    if len(texts) < len(values):
        raise BadShape("answers", "holds values that are not texts")
    return ", ".join(texts)


def _unescaped(text: str) -> str:
    return _ESCAPE.sub(lambda found: _ESCAPES[found.group()], text)


def _csv(value: object) -> str:
    inner = table("table", value)
    text = io.StringIO()
    writer = csv.writer(text)
    for row in [inner["header"], *items("table.rows", inner["rows"])]:
        writer.writerow(items("table.rows", row))
    return text.getvalue()
