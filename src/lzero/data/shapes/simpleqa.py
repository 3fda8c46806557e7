"""SimpleQA's rows.

    {"metadata": "{'topic': 'Art', 'answer_type': 'Person', 'urls': […]}", "problem": …, "answer": …}

The metadata is a text of Python, which is not evaluated: topic and kind of the answer are found by their quotes.
"""

import re

from lzero.data.formats import Fields
from lzero.data.shapes.parts import others

NAME = "SimpleQA"
_PART = re.compile(r"'(topic|answer_type)': '([^']{1,200})'")


def matches(fields: Fields) -> bool:
    return (
        "problem" in fields
        and "answer" in fields
        and ("answer_type" in fields or isinstance(fields.get("metadata"), str))
    )


def convert(fields: Fields) -> Fields:
    metadata = fields.get("metadata")
    found: Fields = others(fields, "problem", "urls") | {"question": fields["problem"]}
    if isinstance(metadata, str):
        found["metadata"] = dict(_PART.findall(metadata))
    return found
