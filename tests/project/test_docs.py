"""The pages of the documentation: their links lead somewhere, and the README stays short."""

import re
from pathlib import Path

import algorithm_tables
import pytest

from lzero.algo.credit import Trajectory, credit, make_estimator
from lzero.config import AlgoConfig, make_config

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    [*ROOT.glob("*.md"), *(page for folder in ("docs", "examples", "recipes") for page in (ROOT / folder).glob("*.md"))]
)


def without_blocks(page: Path) -> str:
    return re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)


def anchors(page: Path) -> set[str]:
    """Return the anchors that GitHub gives to the page's headings."""
    headings = re.findall(r"^#+ (.*)$", without_blocks(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_files_and_headings_that_exist(page: Path) -> None:
    broken = []
    for target in re.findall(r"\]\((?!https?://)([^)\s]+)\)", without_blocks(page)):
        file, _, anchor = target.partition("#")
        found = (page.parent / file).resolve() if file else page
        if not found.exists() or (anchor and anchor not in anchors(found)):
            broken.append(target)
    assert not broken, broken


def test_the_tables_of_algorithms_are_what_their_classes_say() -> None:
    page = algorithm_tables.PAGE.read_text(encoding="utf-8")
    assert algorithm_tables.with_tables(page) == page, "run: python docs/algorithm_tables.py"
    assert "`gigpo`" in page
    assert "`clip_low`" in page


def test_the_estimator_of_the_training_page_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    block = re.search(
        r"^```python\n(# my_credit\.py\n.*?)^```$", algorithm_tables.PAGE.read_text("utf-8"), re.DOTALL | re.MULTILINE
    )
    assert block
    (tmp_path / "my_credit.py").write_text(block[1], encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    algo = AlgoConfig(estimator="my_credit:Best", estimator_options={"scale": 2.0})
    trajectories = [Trajectory(group="a", rewards=(reward, 0.0), states=("", "")) for reward in (1.0, 0.25)]
    assert credit(make_estimator(algo), trajectories) == [(0.0, 0.0), (-1.5, -1.5)]
    (complaint,) = make_estimator(algo).complaints(make_config({"rollout": {"episodes_per_task": 2}}))
    assert complaint == "rollout.episodes_per_task = 2: Best needs at least 4"


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").split()) <= 1500
