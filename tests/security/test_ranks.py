"""A stranger at the store of a run's ranks, which has no token."""

import threading

import pytest
from cases import attack
from torch.distributed import HashStore  # type: ignore[attr-defined]

from lzero.errors import RankError
from lzero.train.ranks import watch
from lzero.train.ranks.group import Group
from lzero.train.ranks.place import Place


@attack(105)
def test_a_stranger_at_the_store_tells_a_rank_nothing() -> None:
    """No configuration, and no order: it may write to the store, but does not know the ranks' key."""
    store, key = HashStore(), "k" * 32
    ranks = [Group(Place(rank=rank, size=2, local_rank=rank, host="", port=0, key=key), store) for rank in range(2)]
    stranger = Group(Place(rank=0, size=2, local_rank=0, host="", port=0), store)
    for key in ("welcome/1", "order/1/0"):
        for text in ("{}", stranger._signing.signed(key, "{}"), ranks[0]._signing.signed("other", "{}")):
            store.set(key, text)
            with pytest.raises(RankError, match=rf"^{key} was not written by a rank of this run"):
                ranks[1].get(key, timeout_s=0.0)
    ranks[0].put("order/1/0", "words")
    assert ranks[1].get("order/1/0") == "words"
    store.set("failed", "rank 7 failed: \x1b[2J")
    for rank in ranks:
        assert rank.fail("rank 1 failed") == ranks[0].first_failure(b"x")
        assert rank.first_failure(b"x").startswith("failed was not written by a rank of this run")


@attack(105)
def test_a_stranger_keeps_no_rank_from_seeing_that_another_has_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "BEAT_S", 0.01)
    store, told, ended = HashStore(), threading.Event(), dict[int, str]()
    rank = Group(Place(rank=0, size=2, local_rank=0, host="", port=0, key="k" * 32), store)
    rank.on_failure(lambda _: told.set())
    store.set("beat/1", b"\xff\x00")  # type: ignore[arg-type]  # torch takes bytes, too
    rank._watch.start(lambda: ended)
    beats = {store.get("beat/0")}
    while len(beats) < 5:
        beats.add(store.get("beat/0"))
    ended[1] = "was killed"
    assert told.wait(30.0)
    assert rank.failure == "rank 1 was killed"
