"""Read the whole configuration of a run from a TOML file and dotted overrides (`algo.kl_coef=0.01`)."""

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import pydantic

from lzero.bounded_toml import parse_toml
from lzero.config.agent import AgentConfig
from lzero.config.base import Section, wrong_value
from lzero.config.engine import DEFAULT_ENGINE, EngineConfig
from lzero.config.repl import ReplConfig
from lzero.config.run import LaunchConfig, ModelConfig, RunConfig
from lzero.config.tasks import EnvironmentConfig, JudgeConfig, RewardConfig, TasksConfig
from lzero.config.tools import ToolsConfig
from lzero.config.training import (
    LOSS_WITH_LAG,
    AlgoConfig,
    CriticConfig,
    EvalConfig,
    LoraConfig,
    RolloutConfig,
    SftConfig,
    TrainConfig,
)
from lzero.errors import ConfigError
from lzero.paths import read_bounded

MAX_BYTES = 1 << 20
"""Largest configuration file."""
MAX_PROBLEMS = 20
"""The most problems of a configuration that an error explains; the search for the nearest key takes a millisecond for each."""


class Config(Section):
    """The whole configuration of a run."""

    run: RunConfig = RunConfig()
    model: ModelConfig = ModelConfig()
    engine: EngineConfig = DEFAULT_ENGINE
    tasks: TasksConfig = TasksConfig()
    environment: EnvironmentConfig = EnvironmentConfig()
    agent: AgentConfig = AgentConfig()
    tools: ToolsConfig = ToolsConfig()
    repl: ReplConfig = ReplConfig()
    rollout: RolloutConfig = RolloutConfig()
    reward: RewardConfig = RewardConfig()
    judge: JudgeConfig = JudgeConfig()
    algo: AlgoConfig = AlgoConfig()
    critic: CriticConfig = CriticConfig()
    train: TrainConfig = TrainConfig()
    lora: LoraConfig = LoraConfig()
    eval: EvalConfig = EvalConfig()
    sft: SftConfig = SftConfig()
    launch: LaunchConfig = LaunchConfig()

    @pydantic.model_validator(mode="before")
    @classmethod
    def _loss_that_bears_lag(cls, values: Any) -> Any:
        """Choose a loss that bears lag where none is named: the default is correct only without lag."""
        rollout, algo = values.get("rollout"), values.get("algo", {})
        if isinstance(rollout, Mapping) and isinstance(algo, Mapping) and rollout.get("max_lag", 0) not in (0, "0"):
            return {**values, "algo": {"loss": LOSS_WITH_LAG, **algo}}
        return values


def load_config(file: Path | None = None, overrides: Sequence[str] = ()) -> Config:
    """Return the defaults, changed by `file`, changed by `overrides` ("section.key=value"; the value is TOML, or a bare string).

    Raises ConfigError, which suggests the nearest key for an unknown one.
    """
    return make_config(read_values(file, overrides))


def read_values(file: Path | None = None, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Return the values that `file` and `overrides` set, by section and key. Raises ConfigError as `load_config` does."""
    values: dict[str, Any] = {}
    if file is not None:
        values = _read_toml(file)
    for override in overrides:
        _apply(values, override)
    return values


def make_config(values: Mapping[str, Any]) -> Config:
    """Return the defaults, changed by `values`: `make_config({"agent": {"max_steps": 12}})`. Raises ConfigError as `load_config` does."""
    try:
        return Config.model_validate(values)
    except pydantic.ValidationError as error:
        found = error.errors(include_url=False)
        more = [f"and {len(found) - MAX_PROBLEMS:,} more problems"] if len(found) > MAX_PROBLEMS else []
        raise ConfigError("\n".join([*map(_explain, found[:MAX_PROBLEMS]), *more])) from None


def keys() -> list[str]:
    """Return every "section.key"; of a section with several kinds, those of each kind."""
    return list(
        dict.fromkeys(f"{name}.{key}" for name, kinds in _sections() for kind in kinds for key in kind.model_fields)
    )


def _sections() -> Iterable[tuple[str, Sequence[type[Section]]]]:
    """Yield each section's name and class; of a section with several kinds, the class of each kind."""
    for name, field in Config.model_fields.items():
        yield name, get_args(field.annotation) or (field.annotation,)


def _read_toml(file: Path) -> dict[str, Any]:
    if not file.exists() and file.parent.name in ("", "recipes") and (bundled := _recipes() / file.name).exists():
        file = bundled  # "recipes/world.toml" works outside of a checkout, too
    try:
        return parse_toml(read_bounded(file, max_bytes=MAX_BYTES).decode().replace("\r\n", "\n"))
    except OSError as error:
        raise ConfigError(f"cannot read the configuration {file}: {error.strerror}") from None
    except (ValueError, RecursionError) as error:  # not TOML or UTF-8, a number without end, tables in tables
        raise ConfigError(f"{file} is not valid TOML: {error}") from None


def _recipes() -> Path:
    """Return the directory of the bundled recipes: in the installed package, or in the checkout."""
    package = Path(__file__).parents[1]
    installed = package / "recipes"
    return installed if installed.is_dir() else package.parents[1] / "recipes"


def _apply(values: dict[str, Any], override: str) -> None:
    path, equals, text = override.partition("=")
    *tables, key = path.split(".")
    if not (equals and tables and all((*tables, key))):
        raise ConfigError(f"{override!r} is not of the form section.key=value, as in algo.kl_coef=0.01")
    try:
        value = parse_toml(f"value = {text}")["value"]
    except (ValueError, RecursionError):
        value = text  # a bare word or path
    table = values
    for depth, name in enumerate(tables):
        table = table.setdefault(name, {})
        if not isinstance(table, dict):
            where = ".".join(tables[: depth + 1])
            raise ConfigError(
                f"{where!r} is a key in the configuration file, not a section: write [{where}] above its keys"
            )
    table[key] = value


_DISTORTING = re.compile(
    r"top_p|top_k|top_a|min_p|typical_p|epsilon_cutoff|eta_cutoff|\w*_penalty|logit_bias|no_repeat_ngram_size"
)
"""Sampling keys of other programs that change the distribution; training has none of them."""


_MOVED = {
    "algo.gamma": "algo.estimator_options.gamma",
    "algo.step_weight": "algo.estimator_options.step_weight",
    "algo.ratio": "algo.loss_options.ratio",
    "algo.clip_low": "algo.loss_options.clip_low",
    "algo.clip_high": "algo.loss_options.clip_high",
    "algo.dual_clip": "algo.loss_options.dual_clip",
    "tasks.corpus": "environment.options.corpus",
    "tasks.search_results": "environment.options.results",
    "tasks.snippet_chars": "environment.options.snippet_chars",
}
"""Keys of earlier versions → the keys that replace them."""


def _kinds(location: Sequence[object]) -> tuple[str, ...]:
    """Return the kind that pydantic names in a location in a section of several kinds: ("engine", "chat", "url") → ("chat",)."""
    sections = {name: len(kinds) for name, kinds in _sections()}
    return tuple(map(str, location[1:2])) if len(location) > 1 and sections.get(str(location[0]), 1) > 1 else ()


def _explain(detail: Mapping[str, Any]) -> str:
    kinds = _kinds(detail["loc"])
    location = ".".join(str(part) for part in detail["loc"] if part not in kinds)
    if detail["type"] == "extra_forbidden":
        if location in _MOVED:
            return f"unknown key {location!r}: write {_MOVED[location]!r}, its new name"
        section, _, key = location.partition(".")
        if section in ("rollout", "agent", "algo", "train") and _DISTORTING.fullmatch(key):
            return (
                f"unknown key {location!r}: training samples from the policy's whole distribution at rollout.temperature. Any other "
                "distribution would make the recorded log-probabilities and the gradient wrong (eval.top_p is for sampled evaluation only)"
            )
        if kinds and location in keys():
            return f'{location!r} is no key of {section}.kind = "{kinds[0]}"'
        known = keys() if key else Config.model_fields
        nearest = difflib.get_close_matches(location, known, n=1, cutoff=0.0)
        return f"unknown key {location!r}; did you mean {nearest[0]!r}?"
    if detail["type"] == "missing":
        return f"missing key {location!r}" + (
            f': {location.partition(".")[0]}.kind = "{kinds[0]}" needs it' if kinds else ""
        )
    if detail["type"] == "union_tag_invalid":
        kind, known = str(detail["ctx"]["tag"]), re.findall(r"'(\w+)'", detail["ctx"]["expected_tags"])
        nearest = difflib.get_close_matches(kind, known, n=1, cutoff=0.0)
        return f'{location}.kind = "{kind}": did you mean "{nearest[0]}"? It is one of {", ".join(known)}'
    if detail["type"] == "tuple_type":
        needed = f"a list is needed, as {location}='[…, …]' on the command line (texts in double quotes)"
        return wrong_value({**detail, "msg": needed}, location)
    return wrong_value(detail, location)
