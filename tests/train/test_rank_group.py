"""Ranks that differ, or do not come, are named before anything is loaded."""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import psutil
import pytest
from torch.distributed import HashStore, PrefixStore  # type: ignore[attr-defined]

from lzero.config import load_config
from lzero.errors import ConfigError, RankError
from lzero.train.ranks import group as groups
from lzero.train.ranks import watch
from lzero.train.ranks.group import Group, Start
from lzero.train.ranks.place import Place, placed
from lzero.train.ranks.starting import is_alone

CONFIG = load_config(None, ["train.lr=0.1"]).model_dump_json()
TORCHRUN = {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "29500"}


def meeting(
    monkeypatch: pytest.MonkeyPatch, *, config: str = "", versions: dict[str, str] | None = None, size: int = 2
) -> tuple[Any, Any]:
    """Let rank 0 and rank 1 meet, and return what each gets: a start, or an error. Rank 1 has these versions and this configuration."""
    store = HashStore()
    store.set_timeout(timedelta(seconds=5))
    first, second = (Group(Place(rank=rank, size=size, local_rank=rank, host="", port=0), store) for rank in range(2))

    def outcome(call: Callable[[], Start]) -> Any:
        try:
            return call()
        except RankError as error:
            return str(error)

    own = groups.versions()
    with ThreadPoolExecutor(1) as pool:
        monkeypatch.setattr(groups, "versions", lambda: versions or own)
        theirs = pool.submit(outcome, lambda: second.compare(None, config))
        while not store.check(["hello/1"]):
            pass
        monkeypatch.setattr(groups, "versions", lambda: own)
        ours = outcome(lambda: first.compare(Start(config=CONFIG, timeout_s=0.2), ""))
        return ours, theirs.result(10)


def test_ranks_that_agree_start(monkeypatch: pytest.MonkeyPatch) -> None:
    for config in ("", CONFIG):
        ours, theirs = meeting(monkeypatch, config=config)
        assert ours == theirs
        assert theirs.config == CONFIG


def test_a_rank_with_another_configuration_is_refused_with_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    other = load_config(None, ["train.lr=0.2"]).model_dump_json()
    ours, theirs = meeting(monkeypatch, config=other)
    assert ours == theirs
    assert "rank 1 on " in ours
    assert "train.lr = 0.2 instead of 0.1" in ours


def test_a_rank_with_another_version_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = meeting(monkeypatch, versions=groups.versions() | {"torch": "1.0"})
    assert ours == theirs
    assert "torch 1.0 instead of " in ours


def test_a_rank_that_does_not_come_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = meeting(monkeypatch, size=3)
    assert ours == theirs == "rank 2 of 3 did not join within 0.2 s (train.rank_timeout_s)"


def test_an_early_rank_waits_for_late_ones_as_long_as_rank_0_does() -> None:
    store = HashStore()
    first, early, late = (Group(Place(rank=rank, size=3, local_rank=rank, host="", port=0), store) for rank in range(3))
    with ThreadPoolExecutor(2) as pool:
        starting = pool.submit(lambda: first.compare(Start(config=CONFIG, timeout_s=60), ""))
        while not store.check(["patience/1"]):
            pass
        waiting = pool.submit(lambda: early.compare(None, "", timeout_s=0))
        while store.check(["patience/1"]) or store.check(["hello/1"]):  # rank 0 has met it, and waits for rank 2
            pass
        assert late.compare(None, "", timeout_s=0) == waiting.result(60) == starting.result(60)


def test_a_rank_that_ended_is_named_at_once() -> None:
    first = Group(Place(rank=0, size=2, local_rank=0, host="", port=0), HashStore())
    with pytest.raises(RankError, match="rank 1 ended with code 3 before it joined"):
        first.compare(Start(timeout_s=60), "", lambda: {1: "ended with code 3"})


def test_a_rank_that_ends_before_the_process_group_is_open_is_named_at_once() -> None:
    store, how = HashStore(), dict[int, str]()
    places = [Place(rank=rank, size=2, local_rank=rank, host="127.0.0.1", port=0) for rank in range(2)]

    def second() -> None:
        Group(places[1], PrefixStore("lzero", store)).compare(None, "")
        how[1] = "ended with code 1"

    with ThreadPoolExecutor(1) as pool:
        ends = pool.submit(second)
        with pytest.raises(RankError, match=r"^rank 1 ended with code 1$"):
            Group.join(places[0], start=Start(device="cpu", timeout_s=4), store=store, ended=lambda: how)
        ends.result(10)


def test_rank_0_gives_signs_of_life_while_it_expects_the_others_to_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "BEAT_S", 0.01)
    store, how = HashStore(), dict[int, str]()
    first = Group(Place(rank=0, size=2, local_rank=0, host="", port=0), store)
    first._watch.start(lambda: how)
    first.stop_watching()
    how[1] = "ended with code 0"
    beats, deadline = {store.get("beat/0")}, time.monotonic() + 60.0
    while len(beats) < 5:
        beats.add(store.get("beat/0"))
        assert time.monotonic() < deadline
    assert first.failure == ""
    first.close()


def test_the_first_failure_is_the_one_that_all_ranks_report() -> None:
    first = Group(Place(rank=0, size=2, local_rank=0, host="", port=0), HashStore())
    assert first.fail("rank 1 failed: no memory") == "rank 1 failed: no memory"
    assert first.fail("rank 0 lost the others") == "rank 1 failed: no memory"
    assert first.failure == "rank 1 failed: no memory", "rank 0 waits for no rank that has failed"


def test_a_failure_may_name_a_file_whose_name_is_no_text() -> None:
    first = Group(Place(rank=0, size=2, local_rank=0, host="", port=0), HashStore())
    assert first.fail("rank 1 failed: no /data/\udcff") == "rank 1 failed: no /data/\\udcff"


def test_torchrun_s_variables_give_a_place(monkeypatch: pytest.MonkeyPatch) -> None:
    place = Place.from_environment(TORCHRUN)
    assert place == Place(rank=1, size=2, local_rank=1, host="10.0.0.1", port=29500)
    assert place.variables() == TORCHRUN
    assert Place.from_environment({}) is None
    secret = Place.from_environment(TORCHRUN | {"LZERO_RANKS_KEY": "secret"})
    assert secret is not None
    assert secret.variables() == TORCHRUN | {"LZERO_RANKS_KEY": "secret"}
    assert "secret" not in repr(secret)
    for name, value in TORCHRUN.items():
        monkeypatch.setenv(name, value)
    assert placed(load_config())[0].train.ranks == 2
    with pytest.raises(ConfigError, match=r"train.ranks = 4, but 2 ranks were started"):
        placed(load_config(None, ["train.ranks=4"]))


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"MASTER_ADDR": ""}, "but not MASTER_ADDR"),
        ({"RANK": "2"}, "RANK = 2 does not fit WORLD_SIZE = 2"),
        ({"WORLD_SIZE": "two"}, "have to be whole numbers"),
    ],
)
def test_variables_that_do_not_fit_are_refused(changes: dict[str, str], complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        Place.from_environment(TORCHRUN | changes)


def test_the_only_rank_of_torchrun_trains_as_one_process_which_may_have_a_critic_and_adapters() -> None:
    only, first = (Place(rank=0, size=size, local_rank=0, host="127.0.0.1", port=1) for size in (1, 2))
    default, offload = load_config(None), load_config(None, ["train.offload=true"])
    assert is_alone(default, None)
    assert is_alone(default, only)
    assert not is_alone(default, first)
    assert not is_alone(offload, only)


@pytest.mark.parametrize(
    ("host", "there"), [("127.0.0.1", True), ("localhost", True), ("10.0.0.1", False), ("node0", False)]
)
def test_ranks_that_meet_on_loopback_stay_there(host: str, there: bool) -> None:
    interface = Place(rank=0, size=2, local_rank=0, host=host, port=1).interface()
    assert (interface is not None) == there
    if interface is not None:
        assert "127.0.0.1" in {address.address for address in psutil.net_if_addrs()[interface]}
