"""Two ranks load a model in parts, send it whole, and save and resume. One start of two ranks makes all checks (`rank_state.py`)."""

import json
from pathlib import Path

import pytest
from adamw import make_adamw
from plain_gradient import TOKENIZER
from rank_models import rank_model
from rank_state import RATE, UPDATES, learn
from ranks import logs, ranks

from lzero.config import Config
from lzero.models import save_model
from lzero.train.checkpoint import Progress, save_checkpoint, take_snapshot

PROGRAM = Path(__file__).parents[1] / "support" / "rank_state.py"
DEADLINE_S = 500.0


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, str]]:
    directory = tmp_path_factory.mktemp("state")
    for kind in ("tied", "untied"):
        save_model(rank_model(kind), TOKENIZER, directory / kind)
    model = rank_model("tied", seed=1)
    optimizer = make_adamw(model, lr=RATE, weight_decay=0.01)
    for number in range(UPDATES):
        learn(model, optimizer, number)
    progress = Progress(update=UPDATES)
    snapshot = take_snapshot(model, TOKENIZER, [optimizer], config=Config(), progress=progress)
    save_checkpoint(directory / "alone", snapshot, keep=1)
    with ranks([str(PROGRAM), str(directory)], directory) as processes:
        codes = [process.wait(timeout=DEADLINE_S) for process in processes]
    assert codes == [0, 0], logs(directory)
    return [json.loads((directory / f"found-{rank}.json").read_text()) for rank in range(2)]


@pytest.mark.timeout(DEADLINE_S + 60)
@pytest.mark.parametrize(
    "check",
    [
        "loads tied",
        "loads untied",
        "sends tied",
        "sends untied in bfloat16",
        "resumes",
        "resumes in bfloat16",
        "takes over",
        "resumes with a critic",
        "resumes with a head",
        "resumes with muon",
        "resumes with an adapter",
        "resumes with an adapter on bfloat16",
    ],
)
def test_two_ranks_have_together_what_one_process_has(check: str, found: list[dict[str, str]]) -> None:
    assert [own[check] for own in found] == ["", ""]
