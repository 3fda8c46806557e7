"""Reject contradictory settings, and report inert ones, before a run starts."""

from collections.abc import Callable, Iterator
from functools import partial

from lzero.algo.algorithm import Algorithm, blamed
from lzero.algo.credit import Estimator, make_estimator
from lzero.algo.loss import make_loss
from lzero.config import NANO, AlgoConfig, Config, CriticConfig, Section, SftConfig, TrainConfig, names_world
from lzero.engine.kinds import kind_of
from lzero.errors import ConfigError
from lzero.extras import need
from lzero.models import select_device
from lzero.rollout.deadline import lzero_s

LEAST_LORA_RATE = 1e-5
"""Learning rate below which an adapter hardly learns; L0 trains all weights at 1e-6."""


def check_settings(config: Config) -> None:
    """Raise ConfigError with one line for each contradiction between settings."""
    complaints = list(_complaints(config))
    checks: tuple[Callable[[Config], object], ...] = (
        _check_extras,
        partial(_check_algorithm, make_estimator, "estimator"),
        partial(_check_algorithm, make_loss, "loss"),
        lzero_s,
    )
    for check in checks:
        try:
            check(config)
        except ConfigError as error:
            complaints.append(str(error))
    if complaints:
        raise ConfigError("\n".join(complaints))


def _check_extras(config: Config) -> None:
    """Raise ConfigError for a setting whose libraries are missing."""
    if config.lora.rank:
        need("lora", what=f"lora.rank = {config.lora.rank}")
    if config.train.optimizer == "adamw-8bit":
        need("low-bit", what='train.optimizer = "adamw-8bit"')


def _check_algorithm(make: Callable[[AlgoConfig], Algorithm], key: str, config: Config) -> None:
    """Raise ConfigError for an estimator or a loss that does not exist, rejects its options, or contradicts other settings."""
    algorithm = make(config.algo)
    with blamed(algorithm, ConfigError):
        complaints = list(algorithm.complaints(config))
    if config.rollout.max_lag > 0 and not algorithm.bears_lag:
        complaints.append(
            f'algo.{key} = "{getattr(config.algo, key)}" is correct only for tokens of the policy that learns, but rollout.max_lag = '
            f"{config.rollout.max_lag} lets earlier policies draw them: set rollout.max_lag to 0, or use another {key}"
            + (' such as "ppo"' if key == "loss" else "")
        )
    if isinstance(algorithm, Estimator) and not algorithm.needs_values and config.critic.kind != "none":
        complaints.append(
            f'critic.kind = "{config.critic.kind}" trains a critic, and algo.estimator = "{config.algo.estimator}" reads no values: set '
            'critic.kind to "none", or use an estimator that needs values, such as "gae"'
        )
    if complaints:
        raise ConfigError("\n".join(complaints))


def _complaints(config: Config) -> Iterator[str]:
    algo, train, rollout, reward = config.algo, config.train, config.rollout, config.reward
    num_episodes = rollout.tasks_per_update * rollout.episodes_per_task
    if num_episodes == 1:
        yield (
            "rollout.tasks_per_update = 1 and rollout.episodes_per_task = 1: a batch needs at least two episodes to compare"
        )
    if rollout.filter == "dapo" and rollout.episodes_per_task == 1:
        yield (
            'rollout.filter = "dapo" compares the scores within a group, so with rollout.episodes_per_task = 1 it would drop nothing: '
            'set it to at least 2, or use "none"'
        )
    if rollout.stragglers > 0 and config.run.deterministic:
        yield (
            f"rollout.stragglers = {rollout.stragglers:g} makes the choice of episodes depend on timing: set it to 0, or "
            "run.deterministic to false"
        )
    if rollout.max_lag > 0 and config.run.deterministic:
        yield (
            f"rollout.max_lag = {rollout.max_lag} makes the policy that draws a token depend on timing: set it to 0, or "
            "run.deterministic to false"
        )
    if rollout.max_lag > 0 and rollout.stragglers > 0:
        yield (
            f"rollout.stragglers = {rollout.stragglers:g} cuts long episodes off, which with rollout.max_lag = {rollout.max_lag} hold up "
            "nothing: set one of the two to 0"
        )
    if rollout.max_lag > 0 and algo.importance_cap > 0:
        yield (
            f"algo.importance_cap = {algo.importance_cap:g} weighs the trainer's policy against the sampler's, but with rollout.max_lag = "
            f'{rollout.max_lag} the loss does so itself: set it to 0, and use algo.loss = "truncated" for that weight'
        )
    if train.minibatches > num_episodes:
        yield (
            f"train.minibatches = {train.minibatches} is more than the rollout.tasks_per_update × rollout.episodes_per_task = "
            f"{num_episodes} episodes of a batch: lower it"
        )
    if config.critic.warmup_updates >= train.updates:
        yield (
            f"critic.warmup_updates = {config.critic.warmup_updates} leaves none of the train.updates = {train.updates} updates to the "
            "policy: lower it"
        )
    if 0 < algo.importance_cap < 1:
        yield (
            f"algo.importance_cap = {algo.importance_cap}: it would truncate tokens on which sampler and trainer agree, whose weight is 1: "
            "set it to at least 1, or to 0 for no weights"
        )
    if not reward.function and reward.qa == reward.format == reward.execution == 0:
        yield "reward.qa, reward.format and reward.execution are all 0, so every reward would be 0: set one of them"
    yield from _complaints_of_ranks(config)


def _complaints_of_ranks(config: Config) -> Iterator[str]:
    """Yield a message for each setting that contradicts `train.ranks` or `train.offload`."""
    train = config.train
    num_episodes = config.rollout.tasks_per_update * config.rollout.episodes_per_task
    if train.ranks % train.sequence_ranks:
        yield f"train.sequence_ranks = {train.sequence_ranks} does not divide train.ranks = {train.ranks}: change one of them"
    if train.sequence_ranks > 1 and train.attention == "mask":
        yield 'train.attention = "mask" needs whole rows: with train.sequence_ranks > 1, set it to "auto" or to a kernel'
    if train.ranks // train.sequence_ranks > max(1, num_episodes // train.minibatches):
        yield (
            f"train.ranks = {train.ranks} is more than the {num_episodes // train.minibatches} episodes of an optimiser step, so that some "
            "ranks would have nothing to train on: lower it"
        )
    if train.offload_optimizer and (train.offload or train.ranks > 1):
        yield (
            "train.offload_optimizer = true is for one process that keeps its weights on the GPU: with train.ranks > 1 or train.offload, "
            "set it to false; train.offload = true keeps the optimizer's state on the host, too"
        )
    elif train.offload_optimizer and select_device(config.model.device) == "cpu":
        yield "train.offload_optimizer = true moves the optimizer from a GPU to the host, and the model is on the host: set it to false"
    if (train.ranks > 1 or train.offload) and train.optimizer == "adamw-8bit":
        yield (
            'train.optimizer = "adamw-8bit": moments of 8 bits are for one process that computes on its device. Set train.ranks to 1 and '
            'train.offload to false, or use "adamw" or "muon"'
        )


def inert_settings(config: Config) -> list[str]:
    """Return a message for each setting that has no effect in training, or gives up a guarantee.

    A key counts as set if it differs from its default.
    """
    notes = [*_inert_keys(config), *_inert_parts(config), *kind_of(config).notes(config)]
    for algorithm in (make_estimator(config.algo), make_loss(config.algo)):
        with blamed(algorithm, ConfigError):
            notes += algorithm.notes(config)
    return notes


def _inert_parts(config: Config) -> Iterator[str]:
    algo, rollout = config.algo, config.rollout
    starts_engines = "replicas" in type(config.engine).model_fields and not getattr(config.engine, "urls", ())
    if config.launch.ray and config.repl.is_elsewhere and not starts_engines and config.train.ranks == 1:
        yield (
            f'launch.ray = "{config.launch.ray}" has no effect: [repl] names its servers, and the engine starts none, and there is one rank'
        )
    if rollout.max_lag > 0:
        yield (
            f"rollout.max_lag = {rollout.max_lag}: the policy that draws a token depends on timing, so the same seed does not give the "
            "same run"
        )
    if rollout.stragglers > 0:
        yield (
            f"rollout.stragglers = {rollout.stragglers:g}: the choice of episodes depends on their speed, so the same seed does not "
            "give the same run, and long episodes are trained on less often than they are sampled"
        )
    if (
        rollout.filter == "l0"
        and rollout.max_refills == 0
        and rollout.max_lag == 0
        and rollout.episodes_per_task > 1
        and rollout.drop_uniform > 0
    ):
        yield (
            'rollout.filter = "l0" takes back dropped groups that refills do not replace: with rollout.max_refills = 0 it takes all '
            'of them back, as rollout.filter = "none" does'
        )
    if config.lora.rank:
        yield from _rate_advice(config)
    if algo.kl_coef > 0 and algo.kl == "k1" and algo.kl_in == "loss":
        yield (
            'algo.kl = "k1" in the loss has no effect: its gradient is 0 on average over samples of the policy; use "k2" or "k3", or '
            'algo.kl_in = "reward"'
        )


def _rate_advice(config: Config) -> Iterator[str]:
    """Yield a sentence if the learning rate hardly moves an adapter, or is that of the demo's tiny model."""
    lr, said = config.train.lr, f"train.lr = {config.train.lr:g} with lora.rank = {config.lora.rank}"
    if lr < LEAST_LORA_RATE:
        yield f"{said}: an adapter needs about ten times the rate of all weights, 1e-5 to 1e-4 for most models"
    elif lr >= TrainConfig().lr and config.model.path != NANO:
        yield f"{said} is a rate for a model as small as the nano: 1e-5 to 1e-4 is usual for the adapters of larger ones"


def _inert_keys(config: Config) -> Iterator[str]:
    algo, reward, rollout, evaluation = config.algo, config.reward, config.rollout, config.eval
    if "wandb" not in config.run.trackers:
        yield from _inert(config, "run.wandb", why='without "wandb" in run.trackers')
    if rollout.filter != "l0":
        yield from _inert(config, "rollout.drop_uniform", why=f'with rollout.filter = "{rollout.filter}"')
    elif rollout.episodes_per_task == 1:
        yield from _inert(config, "rollout.drop_uniform", why="with rollout.episodes_per_task = 1")
    if not (names_world(config.tasks.train) or names_world(config.tasks.eval)):
        yield from _inert(config, "tasks.hops", why="with tasks from files")
    if rollout.max_lag == 0:
        yield from _inert(
            config,
            *(f"rollout.lag_{name}" for name in ("min_ess", "max_kl", "max_masked")),
            why="with rollout.max_lag = 0",
        )
    if config.critic.kind == "none":
        yield from _inert(
            config, *(f"critic.{key}" for key in CriticConfig.model_fields), why='with critic.kind = "none"'
        )
    elif config.critic.kind == "head":
        yield from _inert(config, "critic.path", why='with critic.kind = "head"')
    if config.lora.rank == 0:
        yield from _inert(config, "lora.alpha", "lora.targets", why="with lora.rank = 0")
    if algo.kl_coef == 0:
        yield from _inert(config, "algo.kl", "algo.kl_in", why="with algo.kl_coef = 0")
    if reward.qa == 0:
        yield from _inert(config, "reward.has_answer", "reward.f1", why="with reward.qa = 0")
    if reward.execution == 0:
        yield from _inert(config, "reward.execution_rule", why="with reward.execution = 0")
    if config.train.ranks == 1 and not config.train.offload:
        yield from _inert(config, "train.reshard", "train.rank_timeout_s", why="with train.ranks = 1")
    if evaluation.every >= config.train.updates:
        yield from _inert(config, "eval.every", why=f"with train.updates = {config.train.updates}")
    if evaluation.every == 0:
        yield from _inert(config, "train.keep_best", why="with eval.every = 0")
    if evaluation.sampled_episodes == 0:
        yield from _inert(config, "eval.top_p", why="with eval.sampled_episodes = 0")
    yield from _inert(
        config, *(f"sft.{key}" for key in SftConfig.model_fields), why="in `lzero train`: it belongs to `lzero sft`"
    )


def _inert(config: Config, *names: str, why: str) -> Iterator[str]:
    """Yield a sentence for each of these keys that differs from its default."""
    for name in names:
        section_name, _, key = name.partition(".")
        section: Section = getattr(config, section_name)
        yield from section.inert(section_name, key, why=why)
