"""How ranks write one checkpoint together, beside training. Their exchange runs in one process here."""

import threading
import time
from pathlib import Path

import pytest
import torch
from builders import TINY

from lzero.config import Config
from lzero.errors import RankError, StoreError
from lzero.models import build_tokenizer, load_model, new_model
from lzero.train.checkpoint import Progress, Snapshot, checkpoints, read_manifest, save_checkpoint
from lzero.train.ranks.checkpoint import ShardedState, write_when_told
from lzero.train.stored import Parts

TOKENIZER = build_tokenizer()
DEADLINE_S = 60.0
Ranks = tuple["Texts", "Rank", "Rank"]


class Texts:
    """Where the ranks of a test leave texts for each other."""

    def __init__(self) -> None:
        self.texts: dict[str, str] = {}
        self.failure = ""
        self._changed = threading.Condition()

    def put(self, key: str, text: str) -> None:
        with self._changed:
            self.texts[key] = text
            self._changed.notify_all()

    def fail(self, problem: str) -> None:
        with self._changed:
            self.failure = problem
            self._changed.notify_all()

    def get(self, key: str, timeout_s: float) -> str:
        with self._changed:
            self._changed.wait_for(lambda: key in self.texts or self.failure, min(timeout_s, DEADLINE_S))
            if self.failure or key not in self.texts:
                raise RankError(self.failure or f"waited in vain for {key}")
            return self.texts.pop(key)


class Rank:
    """A rank's view of them. Implements `Board`."""

    def __init__(self, rank: int, texts: Texts) -> None:
        self.rank, self.size, self._texts = rank, 2, texts
        self.elsewhere: Path | None = None
        """Where this rank writes instead, as on a machine with other directories."""

    def put(self, key: str, text: str) -> None:
        self._texts.put(key, text)

    def get(self, key: str, *, timeout_s: float = float("inf")) -> str:
        text = self._texts.get(key, timeout_s)
        return str(self.elsewhere) if self.elsewhere and text else text


def parts_of(rank: int) -> Parts:
    return Parts({"0.layer.exp_avg": torch.full((2,), float(rank))}, {"0.layer.exp_avg": (2 * rank,)})


@pytest.fixture
def ranks() -> Ranks:
    texts = Texts()
    return texts, Rank(0, texts), Rank(1, texts)


def snapshot(board: Rank, *, number: int, update: int = 1, score: float | None = None) -> Snapshot:
    model = new_model(TINY, TOKENIZER, seed=0)
    return Snapshot(
        model=model,
        tokenizer=TOKENIZER,
        weights=model.state_dict(),
        state=ShardedState(parts_of(0), board, number=number, wait_s=DEADLINE_S),
        config=Config(),
        progress=Progress(update=update),
        score=score,
    )


def ended(thread: threading.Thread) -> None:
    thread.join(DEADLINE_S)
    assert not thread.is_alive()


def test_each_rank_writes_its_part_and_one_checkpoint_names_them_all(tmp_path: Path, ranks: Ranks) -> None:
    _, first, second = ranks
    for update in (1, 2):
        thread = write_when_told(parts_of(1), second, number=update)
        path = save_checkpoint(tmp_path, snapshot(first, number=update, update=update), keep=1)
        ended(thread)
    files = read_manifest(path).files.keys()
    assert {"trainer/rank-00000.safetensors", "trainer/rank-00001.safetensors", "model.safetensors"} <= files
    assert checkpoints(tmp_path) == [path]
    load_model(path, dtype="float32", device="cpu")
    (path / "trainer" / "rank-00001.safetensors").unlink()
    with pytest.raises(StoreError, match=r"rank-00001\.safetensors is missing"):
        read_manifest(path)


def test_a_checkpoint_that_only_gets_its_score_is_not_written_again(tmp_path: Path, ranks: Ranks) -> None:
    texts, first, second = ranks
    for number, score in ((1, None), (2, 0.5)):
        thread = write_when_told(parts_of(1), second, number=number)
        path = save_checkpoint(tmp_path, snapshot(first, number=number, score=score), keep=1)
        ended(thread)
    assert read_manifest(path).score == 0.5
    assert texts.texts == {}


def test_a_rank_that_cannot_write_is_named_with_its_reason_and_earlier_checkpoints_stay(
    tmp_path: Path, ranks: Ranks
) -> None:
    _, first, second = ranks
    thread = write_when_told(parts_of(1), second, number=1)
    path = save_checkpoint(tmp_path, snapshot(first, number=1), keep=1)
    ended(thread)
    second.elsewhere = tmp_path / "of-another-machine"
    thread = write_when_told(parts_of(1), second, number=2)
    with pytest.raises(StoreError, match=r"update-000002: rank 1 on .* cannot write its part: .*run\.dir"):
        save_checkpoint(tmp_path, snapshot(first, number=2, update=2), keep=1)
    ended(thread)
    assert checkpoints(tmp_path) == [path]


def test_a_rank_that_dies_while_it_writes_ends_the_save_with_its_error(tmp_path: Path, ranks: Ranks) -> None:
    texts, first, _ = ranks
    death = threading.Timer(0.1, texts.fail, ("rank 1 was killed",))
    death.start()
    started = time.monotonic()
    with pytest.raises(RankError, match="rank 1 was killed"):
        save_checkpoint(tmp_path, snapshot(first, number=1), keep=1)
    assert time.monotonic() - started < DEADLINE_S / 2
    assert checkpoints(tmp_path) == []
    death.join()
