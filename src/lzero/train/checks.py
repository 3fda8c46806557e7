"""What a configuration asks of training that cannot be, and what it sets that does nothing: told before anything is started."""

from collections.abc import Iterator

from lzero.config import Config, Section, SftConfig
from lzero.data.sources import is_world
from lzero.errors import ConfigError

GROUPED = ("reinforce++_baseline", "grpo", "dr_grpo", "rloo", "gigpo")
"""Estimators that compare episodes at one task."""
DISCOUNTED = ("reinforce++", "reinforce++_baseline", "gigpo")
"""Estimators that look at returns over steps."""


def check_settings(config: Config) -> None:
    """Raises ConfigError, with a line for each of the settings that cannot work together."""
    complaints = list(_complaints(config))
    if complaints:
        raise ConfigError("\n".join(complaints))


def _complaints(config: Config) -> Iterator[str]:
    algo, train, rollout, reward = config.algo, config.train, config.rollout, config.reward
    num_episodes = rollout.tasks_per_update * rollout.episodes_per_task
    if algo.estimator in GROUPED and rollout.episodes_per_task == 1:
        yield (
            f'algo.estimator = "{algo.estimator}" compares the episodes of a task: with rollout.episodes_per_task = 1 every '
            'advantage would be 0; take at least 2, or "reinforce++"'
        )
    if num_episodes == 1:
        yield (
            "rollout.tasks_per_update = 1 and rollout.episodes_per_task = 1: a batch of one episode has none to compare it with"
        )
    if rollout.filter == "dapo" and rollout.episodes_per_task == 1:
        yield (
            'rollout.filter = "dapo" judges a group by how its scores differ: with rollout.episodes_per_task = 1 it would drop nothing; '
            'take at least 2, or "none"'
        )
    if rollout.stragglers > 0 and config.run.deterministic:
        yield (
            f"rollout.stragglers = {rollout.stragglers:g} makes what is trained on depend on timing: set it to 0, or "
            "run.deterministic to false"
        )
    if algo.loss == "policy_gradient" and train.epochs * train.minibatches > 1:
        yield (
            f'algo.loss = "policy_gradient" holds for the policy that sampled: train.epochs = {train.epochs} and train.minibatches = '
            f'{train.minibatches} would go on with another one; leave both at 1, or take "ppo"'
        )
    if train.minibatches > num_episodes:
        yield (
            f"train.minibatches = {train.minibatches}: a batch of rollout.tasks_per_update × rollout.episodes_per_task = {num_episodes} "
            "episodes has no more parts than that"
        )
    if 0 < algo.dual_clip <= 1:
        yield (
            f"algo.dual_clip = {algo.dual_clip}: it would cut bad actions off at a ratio of 1, before anything is learned from them; "
            "take more than 1, or 0 for none"
        )
    if 0 < algo.importance_cap < 1:
        yield (
            f"algo.importance_cap = {algo.importance_cap}: it would cut tokens on which sampler and trainer agree, whose weight is 1; "
            "take at least 1, or 0 for no weights"
        )
    if not reward.function and reward.qa == reward.format == reward.execution == 0:
        yield "reward.qa, reward.format and reward.execution are all 0: nothing would be rewarded"


def inert_settings(config: Config) -> list[str]:
    """What does nothing in training with these settings, or gives something up, a sentence each. A key counts as set where it is not as by
    default."""
    return [*_inert_keys(config), *_inert_parts(config)]


def _inert_parts(config: Config) -> Iterator[str]:
    algo, train, rollout = config.algo, config.train, config.rollout
    if rollout.stragglers > 0:
        yield (
            f"rollout.stragglers = {rollout.stragglers:g}: which episodes are trained on depends on how fast they were; the same seed "
            "does not give the same run, and long episodes are trained on less often than they are sampled"
        )
    if (
        rollout.filter == "l0"
        and rollout.max_refills == 0
        and rollout.episodes_per_task > 1
        and rollout.drop_uniform > 0
    ):
        yield (
            'rollout.filter = "l0" takes back what refills do not make up for: with rollout.max_refills = 0 that is all of it, as with '
            'rollout.filter = "none"'
        )
    if algo.loss == "ppo" and train.epochs * train.minibatches == 1:
        yield (
            'algo.loss = "ppo" makes one optimiser step a batch (train.epochs = train.minibatches = 1): every ratio is 1, and algo.ratio, '
            "algo.clip_low, algo.clip_high and algo.dual_clip do nothing"
        )
    if algo.kl_coef > 0 and algo.kl == "k1" and algo.kl_in == "loss":
        yield (
            'algo.kl = "k1" in the loss pulls nowhere: its gradient is 0 on average over what the policy samples; take "k2" or "k3", or '
            'algo.kl_in = "reward"'
        )


def _inert_keys(config: Config) -> Iterator[str]:
    algo, reward, rollout, evaluation = config.algo, config.reward, config.rollout, config.eval
    estimator = f'with algo.estimator = "{algo.estimator}"'
    if algo.loss == "policy_gradient":
        keys = ("algo.ratio", "algo.clip_low", "algo.clip_high", "algo.dual_clip")
        yield from _inert(config, *keys, why='with algo.loss = "policy_gradient"')
    if algo.estimator not in DISCOUNTED:
        yield from _inert(config, "algo.gamma", why=f"{estimator}, which adds up an episode's rewards")
    elif algo.estimator == "gigpo" and algo.step_weight == 0:
        yield from _inert(config, "algo.gamma", why=f"{estimator} and algo.step_weight = 0")
    elif config.agent.max_steps == 1:
        yield from _inert(config, "algo.gamma", why="with agent.max_steps = 1")
    if algo.estimator != "gigpo":
        yield from _inert(config, "algo.step_weight", why=estimator)
    if "wandb" not in config.run.trackers:
        yield from _inert(config, "run.wandb", why='without "wandb" in run.trackers')
    if rollout.filter != "l0":
        yield from _inert(config, "rollout.drop_uniform", why=f'with rollout.filter = "{rollout.filter}"')
    elif rollout.episodes_per_task == 1:
        yield from _inert(config, "rollout.drop_uniform", why="with rollout.episodes_per_task = 1")
    if not (is_world(config.tasks.train) or is_world(config.tasks.eval)):
        yield from _inert(config, "tasks.hops", why="with tasks of files")
    if algo.kl_coef == 0:
        yield from _inert(config, "algo.kl", "algo.kl_in", why="with algo.kl_coef = 0")
    if reward.qa == 0:
        yield from _inert(config, "reward.has_answer", "reward.f1", why="with reward.qa = 0")
    if reward.execution == 0:
        yield from _inert(config, "reward.execution_rule", why="with reward.execution = 0")
    if evaluation.every >= config.train.updates:
        yield from _inert(config, "eval.every", why=f"with train.updates = {config.train.updates}")
    if evaluation.every == 0:
        yield from _inert(config, "train.keep_best", why="with eval.every = 0")
    if evaluation.sampled_episodes == 0:
        yield from _inert(config, "eval.top_p", why="with eval.sampled_episodes = 0")
    yield from _inert(config, *(f"sft.{key}" for key in SftConfig.model_fields), why="here: it is for `lzero sft`")


def _inert(config: Config, *names: str, why: str) -> Iterator[str]:
    """A sentence for each of these keys that is not as by default."""
    for name in names:
        section_name, _, key = name.partition(".")
        section: Section = getattr(config, section_name)
        value = getattr(section, key)
        if value != type(section).model_fields[key].default:
            shown = f'"{value}"' if isinstance(value, str) else value
            yield f"{name} = {shown} does nothing {why}"
