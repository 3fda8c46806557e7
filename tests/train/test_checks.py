"""Contradictory settings are rejected, and inert ones are reported, before training starts."""

from pathlib import Path

import pytest

from lzero.algo.credit import built_in_estimators
from lzero.config import load_config
from lzero.errors import ConfigError
from lzero.train.checks import check_settings, inert_settings

ROOT = Path(__file__).parents[2]
RECIPES = [
    recipe for recipe in sorted((ROOT / "recipes").glob("*.toml")) if not {"nano", "sft"} & set(recipe.stem.split("-"))
]
"""Of `lzero train`; the others are for `lzero sft`."""


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ("algo.estimator=grpo algo.estimator_options.gamma=0.5", "unknown key 'algo.estimator_options.gamma'"),
        (
            "algo.loss_options={clip_low=0.1}",
            "unknown key 'algo.loss_options.clip_low': algo.loss = \"policy_gradient\" has no options",
        ),
        ("algo.estimator=rloo rollout.episodes_per_task=1", 'algo.estimator = "rloo" compares'),
        ("rollout.tasks_per_update=1 rollout.episodes_per_task=1", "a batch needs at least two episodes"),
        ("train.epochs=2", 'algo.loss = "policy_gradient" is correct only for'),
        ("train.minibatches=2", 'use "ppo"'),
        (
            "train.ranks=9 rollout.tasks_per_update=2",
            "train.ranks = 9 is more than the 8 episodes of an optimiser step",
        ),
        ("train.ranks=2 train.offload_optimizer=true", "set it to false; train.offload = true keeps"),
        ("algo.loss=ppo train.minibatches=257", "train.minibatches = 257 is more than .* = 256 episodes"),
        ("algo.loss=ppo train.epochs=2 algo.loss_options.dual_clip=0.5", "dual_clip = 0.5 would clip bad actions"),
        ("algo.importance_cap=0.9", "algo.importance_cap = 0.9"),
        ("reward.qa=0 reward.format=0 reward.execution=0", "every reward would be 0"),
        (
            "rollout.filter=dapo rollout.episodes_per_task=1",
            'rollout.filter = "dapo" compares the scores within a group',
        ),
        (
            "rollout.stragglers=0.9 run.deterministic=true",
            "rollout.stragglers = 0.9 makes the choice of episodes depend on",
        ),
        (
            "rollout.episode_timeout_s=240 agent.max_steps=8",
            "rollout.episode_timeout_s = 240 and agent.work_s = 120: 120 s are left .* 8 replies .* need 1080 s. Set .* to 1200 at least",
        ),
        (
            "agent.work_s=500 rollout.episode_timeout_s=400",
            "rollout.episode_timeout_s = 400 and agent.work_s = 500: 0 s are left",
        ),
        ("agent.memory=soft rollout.episode_timeout_s=1000", "12 replies"),
        (
            "algo.estimator=gae",
            'algo.estimator = "gae" needs the values of a critic, and critic.kind = "none" makes none',
        ),
        (
            "critic.kind=head",
            'critic.kind = "head" trains a critic, and algo.estimator = "reinforce\\+\\+" reads no values',
        ),
        (
            "algo.estimator=gae critic.kind=head critic.warmup_updates=12",
            "critic.warmup_updates = 12 leaves none of the train.updates = 12 updates to the policy",
        ),
        ("repl.lifetime_s=900", "repl.lifetime_s = 900 ends a session before its episode, which may take 960 s"),
    ],
)
def test_what_cannot_work_together_is_refused(settings: str, complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint) as refused:
        check_settings(load_config(None, settings.split()))
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("many", ["train.ranks=2", "train.offload=true"])
def test_moments_of_8_bits_are_refused_on_ranks(many: str) -> None:
    with pytest.raises(ConfigError, match="moments of 8 bits are for one process"):
        check_settings(load_config(None, ["train.optimizer=adamw-8bit", many]))


def test_all_that_cannot_work_is_told_at_once() -> None:
    config = load_config(None, ["algo.estimator=grpo", "rollout.episodes_per_task=1", "train.epochs=2"])
    with pytest.raises(ConfigError) as refused:
        check_settings(config)
    assert len(str(refused.value).splitlines()) == 2


@pytest.mark.parametrize(
    "settings",
    [
        "",
        "algo.estimator=reinforce++ rollout.episodes_per_task=1",
        "algo.loss=ppo train.epochs=4 train.minibatches=8 algo.loss_options.dual_clip=0 algo.importance_cap=2",
        "algo.loss=ppo train.minibatches=256",
        "agent.work_s=600",
        "agent.work_s=600 rollout.episode_timeout_s=1440",
        "rollout.request_timeout_s=10 rollout.episode_timeout_s=300",
        *(
            f"algo.estimator={name} rollout.episodes_per_task=2" + " critic.kind=model" * estimator.needs_values
            for name, estimator in built_in_estimators().items()
        ),
        "algo.estimator=bilevel_gae critic.kind=head rollout.episodes_per_task=1 critic.warmup_updates=11",
    ],
)
def test_what_can_work_is_not_refused(settings: str) -> None:
    check_settings(load_config(None, settings.split()))


@pytest.mark.parametrize(
    ("settings", "keys"),
    [
        ("", []),
        ("algo.loss=ppo algo.loss_options.clip_low=0.1 train.minibatches=2", []),
        ("algo.loss=ppo", ['algo.loss = "ppo" makes one optimiser step per batch']),
        ("algo.estimator_options.gamma=0.5 agent.max_steps=1", ["algo.estimator_options.gamma"]),
        ("agent.max_steps=1", []),
        (
            "algo.estimator=gae critic.kind=head algo.estimator_options.gae_lambda=0.5 agent.max_steps=1",
            ["algo.estimator_options.gae_lambda = 0.5"],
        ),
        ("critic.lr=0.1 critic.path=x", ['critic.path = "x"', "critic.lr = 0.1"]),
        ("algo.estimator=gae critic.kind=head critic.path=x", ['critic.path = "x"']),
        ("algo.estimator=gigpo algo.estimator_options.gamma=0.5", []),
        ("algo.kl_coef=0 algo.kl=k2 algo.kl_in=reward", ["algo.kl ", "algo.kl_in"]),
        ("algo.kl=k1", ['algo.kl = "k1" in the loss has no effect']),
        ("algo.kl=k1 algo.kl_in=reward", []),
        ("reward.qa=0 reward.f1=0.5", ["reward.f1"]),
        ("reward.execution=0 reward.execution_rule=l0", ["reward.execution_rule"]),
        ("eval.every=12", ["eval.every"]),
        ("eval.every=3 eval.top_p=0.9", ["eval.top_p"]),
        ("train.keep_best=false", ["train.keep_best"]),
        ("eval.top_p=0.9 eval.sampled_episodes=4", []),
        ("sft.lr=0.1", ["sft.lr"]),
        ("rollout.filter=dapo rollout.drop_uniform=0.3", ["rollout.drop_uniform"]),
        ("rollout.drop_uniform=0.3", []),
        ("rollout.max_refills=0", ['rollout.filter = "l0" takes back dropped groups that refills do not replace']),
        ("rollout.max_refills=0 rollout.filter=dapo", []),
        ("tasks.hops=[2] tasks.train=tasks.jsonl", []),
        ("tasks.hops=[2] tasks.train=tasks.jsonl tasks.eval=held.jsonl", ["tasks.hops"]),
        ("run.wandb=online", ["run.wandb"]),
        ("rollout.stragglers=0.9", ["rollout.stragglers = 0.9: the choice of episodes depends on"]),
    ],
)
def test_what_does_nothing_is_said(settings: str, keys: list[str]) -> None:
    sentences = inert_settings(load_config(None, settings.split()))
    assert len(sentences) == len(keys)
    assert all(sentence.startswith(key) for sentence, key in zip(sentences, keys, strict=True))


def test_keys_of_vllm_that_cannot_act_are_named() -> None:
    joined = ["engine.kind=vllm", 'engine.urls=["http://a"]', "engine.key=KEY", "engine.replicas=2", "engine.start_s=9"]
    assert inert_settings(load_config(None, joined)) == [
        "engine.replicas = 2 has no effect with engine.urls",
        "engine.start_s = 9.0 has no effect with engine.urls",
    ]
    started = ["engine.kind=vllm", "engine.key=KEY", "engine.replicas=2", "run.deterministic=true"]
    key, deterministic = inert_settings(load_config(None, started))
    assert key == 'engine.key = "KEY" has no effect without engine.urls'
    assert deterministic.startswith("run.deterministic = true does not reach vLLM")


def test_a_sentence_names_the_key_its_value_and_why() -> None:
    config = load_config(None, ["algo.kl_coef=0", "algo.kl=k2"])
    assert inert_settings(config) == ['algo.kl = "k2" has no effect with algo.kl_coef = 0']


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.name)
def test_our_recipes_set_nothing_that_cannot_act(recipe: Path) -> None:
    config = load_config(recipe)
    check_settings(config)
    assert inert_settings(config) == []
