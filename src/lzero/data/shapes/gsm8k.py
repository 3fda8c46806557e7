"""GSM8K's rows: the answer is a worked solution, then `#### 72`.

{"question": …, "answer": "48 / 2 = <<48/2=24>>24 …\\n#### 72"}
"""

from lzero.data.formats import Fields

NAME = "GSM8K"
MARK = "####"


def matches(fields: Fields) -> bool:
    answer = fields.get("answer")
    return isinstance(answer, str) and MARK in answer


def convert(fields: Fields) -> Fields:
    answer = fields["answer"]
    assert isinstance(answer, str)
    return {"ability": "math"} | fields | {"answer": answer.rpartition(MARK)[2].strip()}
