"""Checks of `lzero check`, each of one thing that would end or spoil a run.

    for line in run_checks(config): ...

To add one, write a function `(Subject) -> Iterable[Finding]` and put it into CHECKS. An LzeroError that it raises is a problem, too.
Only the checks of the model load torch; importing this package does not.
"""

from collections.abc import Callable, Iterable, Iterator

from lzero.config import Config
from lzero.engine.kinds import Finding
from lzero.errors import LzeroError
from lzero.train.preflight.model import check_model, check_prompts
from lzero.train.preflight.rewards import check_rewards
from lzero.train.preflight.settings import check_combinations, check_scenes, check_tools
from lzero.train.preflight.subject import Subject
from lzero.train.preflight.tasks import check_leaks, check_tasks

Check = Callable[[Subject], Iterable[Finding]]
CHECKS: tuple[Check, ...] = (
    check_combinations,
    check_tasks,
    check_leaks,
    check_tools,
    check_scenes,
    check_rewards,
    check_model,
    check_prompts,
)
"""All checks, in the order of the report."""


def run_checks(config: Config) -> Iterator[Finding]:
    """Run all checks, in order; a failed check does not stop the others. A problem that several checks find is reported once."""
    reported: set[str] = set()
    with Subject(config) as subject:
        for line in (line for check in CHECKS for line in _lines(check, subject)):
            problems = tuple(problem for problem in line.problems if problem not in reported)
            reported |= set(problems)
            if problems or not line.problems:
                yield Finding(line.name, line.looked_at, problems)


def _lines(check: Check, subject: Subject) -> Iterator[Finding]:
    try:
        yield from check(subject)
    except LzeroError as error:
        name = check.__name__.removeprefix("check_").replace("_", " ")
        yield Finding(name, "not checked", (str(error),))
