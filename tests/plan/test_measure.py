"""Rates of this machine, measured on thin models."""

import math

import pytest

from lzero.config import load_config
from lzero.plan import make_plan
from lzero.plan.architecture import Architecture
from lzero.plan.placement import configured
from lzero.plan.workload import Workload

pytest.importorskip("torch")
pytestmark = pytest.mark.integration
TINY = Architecture(
    name="tiny",
    hidden=16,
    layers=2,
    heads=2,
    kv_heads=1,
    head_dim=8,
    mlp=24,
    vocabulary=64,
    tied=True,
    norms_heads=True,
)
WORK = Workload(steps=2, prompt_tokens=8, reply_tokens=4, output_tokens=4, cell_s=0.01)


@pytest.mark.parametrize("packing", ["tree", "padded"])
def test_this_machine_has_finite_rates_and_a_plan(packing: str) -> None:
    from lzero.plan.measure import measured_device

    config = load_config(None, ["model.device=cpu", f"train.packing={packing}", "train.micro_batch_tokens=64"])
    device = measured_device(config, TINY, WORK)
    assert device.is_measured
    assert device.shares_cores >= 1
    assert all(0 < rates["float32"] < math.inf for rates in (device.train, device.forward))
    made = make_plan(config, TINY, WORK, device, placement=configured(config), devices=1)
    assert 0 < made.update_s < 1e6
