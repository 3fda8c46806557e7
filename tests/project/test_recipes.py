"""recipes/*.toml: every one is a valid configuration, and says what it claims to."""

import tomllib
from pathlib import Path

import pytest

from lzero.config import Config, load_config
from lzero.plan import make_plan
from lzero.plan.architecture import architecture_of
from lzero.plan.devices import device_named
from lzero.plan.placement import configured
from lzero.plan.workload import assumed
from lzero.rewards import make_reward
from lzero.rollout.deadline import lzero_s

RECIPES = Path(__file__).parents[2] / "recipes"
SLOWEST_TOKENS_PER_S = 11
"""Of one request, on the machine that a recipe is for; the nano's engine makes more on two cores."""
FILES = sorted(RECIPES.glob("*.toml"))
STEPS = {"qa-qwen3-0.6b": 8, "l0-exact": 8, "qa-qwen3-4b": 15, "qa-qwen2.5-7b": 8, "qa-qwen2.5-32b": 20}
"""Steps of an episode in L0's recipes, by the size of the model."""
GPUS = {"qa-qwen3-0.6b": 1, "qa-qwen3-4b": 8, "qa-qwen2.5-7b": 8, "qa-qwen2.5-32b": 32}
"""GPUs of 80 GB that a recipe is for."""


def recipe(name: str) -> Config:
    return load_config(RECIPES / f"{name}.toml")


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_recipe_is_a_valid_configuration_named_as_its_file_and_told_of_in_the_readme(file: Path) -> None:
    config = load_config(file)
    make_reward(config.reward)
    assert config.run.name == file.stem
    assert file.name in (RECIPES / "README.md").read_text(encoding="utf-8")


def test_every_recipe_is_in_the_wheel() -> None:
    project = tomllib.loads((RECIPES.parent / "pyproject.toml").read_text(encoding="utf-8"))
    included = project["tool"]["hatch"]["build"]["targets"]["wheel"]["force-include"]
    assert included == {f"recipes/{file.name}": f"lzero/recipes/{file.name}" for file in FILES}


def test_the_world_recipe_spells_out_every_default_of_training() -> None:
    assert recipe("world") == Config()
    written = tomllib.loads((RECIPES / "world.toml").read_text(encoding="utf-8"))
    for name, section in Config():
        if name != "sft":
            assert list(written[name]) == list(type(section).model_fields), name


@pytest.mark.parametrize("name", STEPS)
def test_recipes_for_real_models_hold_the_defaults_of_l0(name: str) -> None:
    config = recipe(name)
    assert (config.rollout.tasks_per_update, config.rollout.episodes_per_task) == (64, 4)
    assert config.rollout.drop_uniform == 0.5
    assert (config.train.lr, config.train.weight_decay, config.train.grad_clip) == (1e-6, 0.01, 1.0)
    assert (config.algo.estimator_options, config.algo.kl_coef) == ({"gamma": 0.95}, 0.001)
    assert (config.agent.max_steps, config.agent.response_tokens) == (STEPS[name], 3_072)
    assert config.agent.max_tokens == 16_384 + 3_072
    assert (config.eval.sampled_episodes, config.eval.top_p) == (3, 0.9)
    assert (config.reward.qa, config.reward.format, config.reward.execution) == (0.8, 0.1, 0.1)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_an_episode_of_a_recipe_has_time_for_all_that_its_budgets_allow(file: Path) -> None:
    config = load_config(file)
    agent, rollout = config.agent, config.rollout
    assert lzero_s(config) >= agent.max_steps * rollout.request_timeout_s
    longest_s = agent.response_tokens / SLOWEST_TOKENS_PER_S
    assert rollout.request_timeout_s > longest_s, "else an agent could lose its episode by a long reply"


@pytest.mark.parametrize("name", GPUS)
def test_a_recipe_fits_into_its_gpus_by_its_plan(name: str) -> None:
    config = recipe(name)
    model, device = architecture_of(config.model.path), device_named("H100")
    made = make_plan(config, model, assumed(config), device, placement=configured(config), devices=GPUS[name])
    assert made.placement.devices == GPUS[name]
    assert not made.problems


def test_only_the_exact_recipe_has_l0s_own_rules_of_reward() -> None:
    exact = recipe("l0-exact").reward
    assert (exact.has_answer, exact.execution_rule, exact.match, exact.f1) == (0.1, "l0", "ascii", 0.0)
    assert recipe("qa-qwen3-0.6b").reward == Config().reward
