"""The published table says what the tests show."""

from pathlib import Path

from cases import CASES, WITHOUT_TEST, shown_by, table

PAGE = Path(__file__).parents[2] / "docs" / "sandbox.md"


def test_every_case_has_a_test_or_a_reason() -> None:
    numbers = {case.number for case in CASES}
    assert len(numbers) == len(CASES)
    assert numbers == set(shown_by()) | set(WITHOUT_TEST)
    assert not set(shown_by()) & set(WITHOUT_TEST)


def test_the_page_shows_the_table() -> None:
    assert PAGE.read_text(encoding="utf-8").endswith(f"<!-- table -->\n\n{table()}\n"), (
        "docs/sandbox.md is behind the tests: replace its table by what `python tests/security/cases.py` prints"
    )
