"""Texts of ranks count once, at their place, and in their run; whatever one rank finds wrong, all ranks learn."""

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from torch.distributed import HashStore  # type: ignore[attr-defined]

from lzero.errors import RankError
from lzero.train.ranks import dispatch
from lzero.train.ranks.checkpoint import write_when_told
from lzero.train.ranks.dispatch import Dispatcher, obey_all
from lzero.train.ranks.group import Group, Start
from lzero.train.ranks.member import Member
from lzero.train.ranks.place import Place
from lzero.train.ranks.watch import FAILED
from lzero.train.stored import Parts

KEY = "the same secret in every run"
FORGED = "was not written by a rank of this run"


class Recorded(HashStore):
    """A store that remembers the last bytes of every key, as somebody does who reads it."""

    def __init__(self) -> None:
        super().__init__()
        self.set_timeout(timedelta(seconds=5))
        self.heard: dict[str, bytes] = {}

    def set(self, key: str, value: str) -> None:
        self.heard[key] = value.encode()
        super().set(key, value)


def groups_on(store: HashStore, key: str = KEY) -> list[Group]:
    return [Group(Place(rank=rank, size=2, local_rank=rank, host="", port=0, key=key), store) for rank in range(2)]


def meet(store: HashStore) -> list[Group]:
    first, second = groups_on(store)
    with ThreadPoolExecutor(1) as pool:
        theirs = pool.submit(second.compare, None, "")
        first.compare(Start(timeout_s=30), "")
        theirs.result(30)
    return [first, second]


@pytest.fixture
def earlier() -> dict[str, bytes]:
    """Texts of an earlier run with the same secret."""
    store = Recorded()
    first, _ = meet(store)
    first.put("order/1/0", "{}")
    first.put("order/1/1", "{}")
    first.fail("rank 0 failed: no memory")
    store.heard[FAILED] = store.get(FAILED)
    return store.heard


def test_a_text_of_an_earlier_run_or_of_another_place_is_refused(earlier: dict[str, bytes]) -> None:
    store = Recorded()
    first, second = meet(store)
    store.set("order/1/0", earlier["order/1/0"].decode())
    with pytest.raises(RankError, match=rf"order/1/0 {FORGED}"):
        second.get("order/1/0", timeout_s=5)
    first.put("order/1/1", "{}")
    store.set("order/1/0", store.heard["order/1/1"].decode())
    with pytest.raises(RankError, match=rf"order/1/0 {FORGED}"):
        second.get("order/1/0", timeout_s=5)
    assert second.get("order/1/1", timeout_s=5) == "{}"
    assert FORGED in second.first_failure(earlier[FAILED])


def test_the_welcome_of_an_earlier_run_does_not_let_a_rank_begin(earlier: dict[str, bytes]) -> None:
    """Else the whole earlier run could be played to a rank, whose orders belong to the run that the welcome names."""
    store = Recorded()
    _, second = groups_on(store)
    for key in ("patience/1", "welcome/1"):
        store.set(key, earlier[key].decode())
    with pytest.raises(RankError, match=rf"welcome/1 {FORGED}"):
        second.compare(None, "", timeout_s=5)


def test_a_hello_of_an_earlier_run_gets_no_welcome_that_the_rank_takes(earlier: dict[str, bytes]) -> None:
    store = Recorded()
    first, second = groups_on(store)
    store.set("hello/1", earlier["hello/1"].decode())
    first.compare(Start(timeout_s=5), "")
    with pytest.raises(RankError, match=rf"welcome/1 {FORGED}"):
        second.compare(None, "", timeout_s=5)


@pytest.mark.parametrize(("text", "said"), [("0" * 64 + "{}", FORGED), (None, "ValidationError")])
def test_an_order_that_a_rank_refuses_ends_all_ranks(text: str | None, said: str) -> None:
    store = Recorded()
    first, second = meet(store)
    if text is None:
        first.put("order/1/0", "{}")
    else:
        store.set("order/1/0", text)
    with pytest.raises((RankError, ValueError)):
        obey_all(second, Member(group=second, trainer=None))  # type: ignore[arg-type]
    found = first.first_failure(store.get(FAILED))
    assert found.startswith("rank 1 failed: ")
    assert said in found


def test_a_rank_that_finds_the_place_of_a_checkpoint_forged_tells_rank_0() -> None:
    store = Recorded()
    first, second = meet(store)
    store.set("checkpoint/3/1/where", "0" * 64 + "/somewhere")
    write_when_told(Parts({}, {}), second, number=3).join(30)
    assert FORGED in first.get("checkpoint/3/1/written", timeout_s=5)


def test_a_rank_that_hangs_in_the_last_order_is_not_waited_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch, "STOP_S", 0.2)
    first, second = meet(Recorded())
    ranks = Dispatcher(first, Member(group=first, trainer=None))  # type: ignore[arg-type]
    with pytest.raises(RankError, match=r"rank 0 waited 0\.\d+ s for answer/1/0, which did not come"):
        ranks.stop()
    assert "answer/1/0" in second.first_failure(first._store.compare_set(FAILED, "", ""))
    ranks.stop()
