"""Two ranks learn what one process learns, however the model is sharded and the batch divided; and the comparison finds what is broken.

`tests/support/rank_checks.py` holds the cases. All of them run in one start of two processes, because that takes seconds.
"""

import json

import pytest
import torch
from rank_checks import BROKEN, CASES, Case
from ranks import TESTS, logs, ranks

pytestmark = [pytest.mark.integration, pytest.mark.timeout(900)]
Found = dict[str, dict[str, float]]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Found:
    directory = tmp_path_factory.mktemp("ranks")
    file = directory / "found.json"
    with ranks([str(TESTS / "support" / "rank_checks.py"), str(file)], directory) as started:
        codes = [process.wait(timeout=800) for process in started]
    assert codes == [0, 0], logs(directory)
    found: Found = json.loads(file.read_text())
    return found


def tolerance(case: Case) -> float:
    if case.dtype is torch.bfloat16:
        return 0.1
    return 1e-9 if case.model == "float64" else 1e-5


@pytest.mark.parametrize("name", CASES)
def test_two_ranks_learn_what_one_process_learns(name: str, found: Found) -> None:
    assert found[name]["error"] < tolerance(CASES[name])
    assert found[name]["metrics"] < 100 * tolerance(CASES[name])


@pytest.mark.parametrize("name", BROKEN)
def test_the_comparison_finds_what_is_broken(name: str, found: Found) -> None:
    assert found[name]["error"] > 1e-4
