"""Every kind of failure, and every error that may end in one, has an answer to: does it pay to bring this about?"""

from pathlib import Path
from typing import get_args

from blame import KINDS, SITES, answers, found, table

from lzero.types import Failure, Status

ROOT = Path(__file__).parents[2]


def test_every_kind_of_failure_has_an_answer_and_tests_that_exist() -> None:
    assert set(KINDS) == set(get_args(Failure.__annotations__["kind"]))
    tests = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("test_*.py"))
    missing = [name for kind in KINDS.values() for name in kind.shown_by if f"def {name}(" not in tests]
    assert not missing


def test_every_error_that_may_end_an_episode_as_failed_has_one_answer() -> None:
    places = set(found())
    unanswered = [place for place in places if len(answers(*place)) != 1]
    assert not unanswered, "can an episode bring this about? Add the answer to tests/security/blame.py"
    stale = [site for site in SITES if not any(site in answers(*place) for place in places)]
    assert not stale


def test_all_but_one_status_is_scored() -> None:
    assert set(get_args(Status)) - {"failed"} == {"finished", "out_of_steps", "out_of_tokens", "out_of_time", "refused"}


def test_the_page_shows_the_table_of_kinds() -> None:
    page = (ROOT / "docs" / "training.md").read_text(encoding="utf-8")
    assert table() in page, "python tests/security/blame.py makes it"
