"""Ranks that share rows compute the gradient of one process."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from lzero.config import make_config
from lzero.errors import ConfigError
from lzero.train.checks import check_settings
from lzero.train.ranks.starting import opened_trainer
from lzero.train.ulysses import check_heads

pytestmark = pytest.mark.integration
SCRIPT = Path(__file__).parent.parent / "support" / "shared_rows.py"


@pytest.mark.timeout(400)
@pytest.mark.parametrize("ranks", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_ranks_that_share_rows_give_the_gradient_of_one_process(ranks: int) -> None:
    done = subprocess.run([sys.executable, str(SCRIPT), str(ranks)], capture_output=True, text=True, timeout=390)
    assert done.returncode == 0, done.stderr
    errors = json.loads(done.stdout.splitlines()[-1])
    assert len(errors) >= 9
    for name, error in errors.items():
        if name.startswith("broken"):
            assert error > 1e-2, name
        else:
            assert error < (1e-9 if name.startswith("float64") else 1e-5), name


async def test_a_run_whose_heads_ranks_cannot_divide_ends_before_anything_is_loaded() -> None:
    config = make_config({"train": {"ranks": 2, "sequence_ranks": 2}})
    with pytest.raises(ConfigError, match="3 heads and 3 key-value heads of the model cannot be divided"):
        async with opened_trainer(config, checkpoint=None):
            raise AssertionError


def test_ranks_that_cannot_share_rows_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"train.sequence_ranks = 2 does not divide train.ranks = 3"):
        check_settings(make_config({"train": {"ranks": 3, "sequence_ranks": 2}}))
    with pytest.raises(ConfigError, match=r'train.attention = "mask" needs whole rows'):
        check_settings(make_config({"train": {"ranks": 2, "sequence_ranks": 2, "attention": "mask"}}))


def test_heads_that_ranks_cannot_divide_are_refused() -> None:
    for heads, kv_heads, ranks in ((3, 3, 3), (16, 8, 4), (16, 2, 4), (4, 1, 4)):
        check_heads(heads, kv_heads, ranks)
    with pytest.raises(ConfigError, match=r"3 heads and 3 key-value heads of the model cannot .* possible are 1, 3$"):
        check_heads(3, 3, 2)
    with pytest.raises(ConfigError, match=r"possible are 1, 2, 4, 8, 16$"):
        check_heads(16, 4, 3)
    with pytest.raises(ConfigError, match=r"possible are 1, 2, 4, 28$"):
        check_heads(28, 4, 8)
