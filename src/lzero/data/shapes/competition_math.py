r"""MATH's rows. The gold answer is what the last `\boxed{…}` of the solution holds.

{"problem": …, "level": "Level 5", "type": "Algebra", "solution": …}
{"problem": …, "level": 5, "subject": "Algebra", "solution": …, "answer": …, "unique_id": …}     MATH-500
"""

from lzero.data.formats import Fields
from lzero.data.shapes.parts import BadShape, level, others
from lzero.data.values import shown

NAME = "MATH"
_BOXES = ("\\boxed", "\\fbox")


def matches(fields: Fields) -> bool:
    return "problem" in fields and "solution" in fields and "level" in fields


def convert(fields: Fields) -> Fields:
    """Raises BadShape."""
    found = others(fields, "problem", "solution", "unique_id") | {"question": fields["problem"], "ability": "math"}
    found["answer"] = fields.get("answer") or last_box(fields["solution"])
    difficulty = level(fields["level"])
    if difficulty is not None:
        found["difficulty"] = difficulty
    return found | ({"id": fields["unique_id"]} if fields.get("unique_id") else {})


def last_box(solution: object) -> str:
    r"""Return what the last box holds: `last_box("so $\\boxed{\\frac{1}{2}}$") == "\\frac{1}{2}"`. Raises BadShape."""
    if not isinstance(solution, str):
        raise BadShape("solution", f"holds {shown(solution)}: give a text")
    start, name = max((solution.rfind(box), box) for box in _BOXES)
    rest = solution[start + len(name) :].lstrip() if start >= 0 else ""
    if not rest.startswith("{"):
        answer = rest.split("$")[0].strip()
        if not answer:
            raise BadShape("solution", "has no answer in \\boxed{…}")
        return answer
    depth = 0
    for at, sign in enumerate(rest):
        depth += (sign == "{") - (sign == "}")
        if not depth:
            return rest[1:at].strip()
    raise BadShape("solution", "has a \\boxed{ that is not closed")
