"""Validate the return value of a reward function, and convert it to a `Reward` of plain floats.

A reward function may be a user's. It returns a `Reward`, or a number. The number is the score, which is paid on the last step as the part
"reward". It may have any real type: bool, int, Decimal, Fraction, scalars of numpy and torch.
"""

import math
import numbers
import re
from collections.abc import Iterable, Mapping

from lzero.errors import RewardError
from lzero.types import Reward

LARGEST = 1e6
"""Largest magnitude of a step's reward: sums and squares of larger ones would overflow in training."""
ROUNDING = 1e-6
"""Distance outside 0 to 1 at which a score still counts as 0 or 1."""
PART_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,63}")
"""Form of a part's name, which becomes the metric `reward/<part>`."""
TAKEN = ("total", "std")
"""Names of other metrics `reward/…`."""


def as_reward(returned: object, *, num_steps: int) -> Reward:
    """Return the checked reward of an episode of `num_steps` steps, in floats.

    Raises RewardError, whose message completes "the reward function …", if `returned` is neither a Reward nor a real number, the score
    is outside 0 to 1, the number of rewards is not that of steps, a number is not finite, or a part's name cannot name a metric.
    """
    if not isinstance(returned, Reward):
        score = _score(returned, "returned")
        per_step = on_last_step(score, num_steps)
        return Reward(score=score, per_step=per_step, parts={"reward": per_step})
    if not isinstance(returned.parts, Mapping):
        raise RewardError(f"returned parts that are {_kind(returned.parts)}: give a dict of names to a number a step")
    return Reward(
        score=_score(returned.score, "returned a score that is"),
        per_step=_steps(returned.per_step, "per_step", num_steps),
        parts={_name(name): _steps(values, f"part {name!r}", num_steps) for name, values in returned.parts.items()},
    )


def on_last_step(value: float, num_steps: int) -> tuple[float, ...]:
    """Return a number for each step: `value` for the last, 0 for the others; () for no steps."""
    return (0.0,) * (num_steps - 1) + (value,) if num_steps else ()


def _score(value: object, what: str) -> float:
    if value is None or isinstance(value, dict | list | tuple):
        raise RewardError(f"{what} {_kind(value)}: return a Reward, or a number from 0 to 1")
    score = real_number(value, what)
    if not -ROUNDING <= score <= 1 + ROUNDING:
        raise RewardError(
            f"{what} {score:g}: a score is from 0 to 1. Return Reward(score=…, per_step=…, parts={{}}) to pay any other number"
        )
    return min(1.0, max(0.0, score))


def _steps(values: object, what: str, num_steps: int) -> tuple[float, ...]:
    if not isinstance(values, Iterable) or isinstance(values, str | bytes | Mapping):
        raise RewardError(f"returned {what} that is {_kind(values)}: give a number a step")
    found = tuple(real_number(value, f"returned {what} with") for value in values)
    if len(found) != num_steps:
        raise RewardError(f"returned {len(found)} numbers in {what} for {num_steps} steps: give one a step")
    for value in found:
        if abs(value) > LARGEST:
            raise RewardError(f"returned {value:g} in {what}: the largest magnitude is {LARGEST:g}. Scale the reward")
    return found


def real_number(value: object, what: str) -> float:
    """Return a finite number as a float. Raises RewardError, which begins with `what`, for anything else."""
    if type(value) is float and math.isfinite(value):  # as nearly all are
        return value
    kind = type(value)
    is_complex = isinstance(value, numbers.Complex) and not isinstance(value, numbers.Real)
    is_one = getattr(value, "shape", ()) == ()  # not an array, even of one element
    if isinstance(value, str | bytes) or is_complex or not is_one or not hasattr(kind, "__float__"):
        raise RewardError(f"{what} {_kind(value)}, which is no real number")
    try:
        number = float(value)  # type: ignore[arg-type] # it has __float__
    except Exception as error:
        raise RewardError(f"{what} {_kind(value)}, which float() refuses: {error}") from error
    if not math.isfinite(number):
        raise RewardError(f"{what} {number}, which is not finite")
    return number


def _name(name: object) -> str:
    if not isinstance(name, str) or not PART_NAME.fullmatch(name) or name in TAKEN:
        raise RewardError(
            f"returned a part named {name!r:.80}: a part is the metric reward/<name>, so name it by letters, digits, _ . - "
            f"(other than {', '.join(TAKEN)})"
        )
    return name


def _kind(value: object) -> str:
    if value is None:
        return "None"
    kind = type(value)
    named = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
    shape = getattr(value, "shape", ())
    return f"a {named}" + (f" of shape {tuple(shape)}" if shape != () else "")
