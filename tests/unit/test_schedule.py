import pytest

from lzero.config import load_config
from lzero.errors import ConfigError
from lzero.train.schedule import Schedule, learning_rate_factor


def factors(schedule: Schedule, *, warmup: int, updates: int = 6) -> list[float]:
    return [
        learning_rate_factor(update, updates=updates, schedule=schedule, warmup=warmup) for update in range(updates)
    ]


def test_a_constant_rate_is_the_whole_rate_from_the_end_of_the_warm_up() -> None:
    assert factors("constant", warmup=0) == [1.0] * 6
    assert factors("constant", warmup=3) == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]


def test_a_falling_rate_would_be_zero_in_the_update_after_the_last() -> None:
    assert factors("linear", warmup=2) == pytest.approx([1 / 3, 2 / 3, 1.0, 0.75, 0.5, 0.25])
    assert factors("cosine", warmup=2) == pytest.approx([1 / 3, 2 / 3, 1.0, 0.853553, 0.5, 0.146447], abs=1e-6)
    for schedule in ("linear", "cosine"):
        assert learning_rate_factor(6, updates=6, schedule=schedule, warmup=2) == pytest.approx(0.0, abs=1e-12)
        assert learning_rate_factor(60, updates=6, schedule=schedule, warmup=2) == pytest.approx(0.0, abs=1e-12)


def test_a_warm_up_that_never_ends_is_refused() -> None:
    with pytest.raises(ConfigError, match="warmup_updates = 4 leaves none of updates = 4"):
        load_config(overrides=["train.updates=4", "train.warmup_updates=4"])
