import pytest

from lzero.config import TrainConfig, load_config
from lzero.errors import ConfigError
from lzero.train.schedule import learning_rate, warmup_stable_decay


def settings(schedule: str, *, warmup: int) -> TrainConfig:
    return TrainConfig.model_validate({"lr": 2.0, "updates": 6, "lr_schedule": schedule, "warmup_updates": warmup})


def rates(schedule: str, *, warmup: int) -> list[float]:
    train = settings(schedule, warmup=warmup)
    return [learning_rate(update, train) for update in range(train.updates)]


def test_a_constant_rate_is_the_whole_rate_from_the_end_of_the_warm_up() -> None:
    assert rates("constant", warmup=0) == [2.0] * 6
    assert rates("constant", warmup=3) == [0.5, 1.0, 1.5, 2.0, 2.0, 2.0]


def test_a_falling_rate_would_be_zero_in_the_update_after_the_last() -> None:
    assert rates("linear", warmup=2) == pytest.approx([2 / 3, 4 / 3, 2.0, 1.5, 1.0, 0.5])
    assert rates("cosine", warmup=2) == pytest.approx([2 / 3, 4 / 3, 2.0, 1.707107, 1.0, 0.292893], abs=1e-6)
    for schedule in ("linear", "cosine"):
        for update in (6, 60):
            assert learning_rate(update, settings(schedule, warmup=2)) == pytest.approx(0.0, abs=1e-12)


def test_a_warm_up_that_never_ends_is_refused() -> None:
    with pytest.raises(ConfigError, match="warmup_updates = 4 must be smaller than updates = 4"):
        load_config(overrides=["train.updates=4", "train.warmup_updates=4"])


def test_of_fine_tuning_the_rate_rises_stays_and_falls() -> None:
    factors = [
        warmup_stable_decay(fraction, warmup=0.1, decay=0.2) for fraction in (0.0, 0.05, 0.1, 0.5, 0.8, 0.9, 1.0, 1.1)
    ]
    assert factors == pytest.approx([0.0, 0.5, 1.0, 1.0, 1.0, 0.5, 0.0, 0.0])
    assert warmup_stable_decay(0.0, warmup=0.0, decay=0.0) == warmup_stable_decay(1.0, warmup=0.0, decay=0.0) == 1.0
