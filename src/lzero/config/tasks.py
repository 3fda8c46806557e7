"""Keys of tasks: where they come from, the world that they are solved in, and what their answers earn."""

from pathlib import Path
from typing import Any, Literal, Self

import pydantic
from pydantic import Field

from lzero.config.base import ROW_FILES, Count, Fraction, Positive, Section

HUB = "hf:"
"""Beginning of the name of a data set on the Hugging Face Hub."""


def names_factory(spec: str) -> bool:
    """Return whether `spec` is a source with a colon ("package.module:factory"), and no file, data set or "directory:split"."""
    before, colon, _ = spec.rpartition(":")
    return bool(colon) and not spec.startswith(HUB) and not spec.endswith(ROW_FILES) and not Path(before).is_dir()


def names_world(spec: str) -> bool:
    """Return whether `spec` names the built-in world ("world", "world/sft"), and not a file ("world/tasks.jsonl")."""
    return spec.partition("/")[0] == "world" and not spec.endswith(ROW_FILES)


class TasksConfig(Section):
    train: str = "world"
    """Tasks: "world" (built in); a file (.jsonl, .json, .parquet, .arrow, .csv, .tsv), a directory of files or a set of `lzero data`, also
    as "DIRECTORY:SPLIT"; "hf:OWNER/NAME", a data set of the Hugging Face Hub; "reasoning_gym:chain_sum" or another of its generators; or
    the import path "package.module:factory" of your own source."""
    eval: str = "world"
    """Source of held-out tasks, as for `train`. The world's splits never overlap."""
    options: dict[str, Any] = Field({})
    """Options of a source that is named with a colon, as {largest = 20}."""
    columns: dict[str, str] = Field({})
    """Columns of a task file that hold the fields of a task: {question = "utterance", answers = "target"}; "a.b" is column b inside
    of a; "" reads the field from no column."""
    hops: tuple[int, ...] = (1, 2, 3)
    """Hop counts of the world's questions, in equal parts."""

    @pydantic.model_validator(mode="after")
    def _every_key_acts(self) -> Self:
        named = (self.train, self.eval)
        if self.options and not any(map(names_factory, named)):
            raise ValueError(
                "options has an effect with a source of your own only: neither tasks.train nor tasks.eval names one"
            )
        if self.columns and all(names_factory(spec) or names_world(spec) for spec in named):
            raise ValueError("columns has an effect with task files only: neither tasks.train nor tasks.eval names one")
        return self


class EnvironmentConfig(Section):
    use: str = "search"
    """World that agents act in: "search" (a tool that searches the passages of a task, or a corpus), "none", "trl" (a class for
    TRL), or the import path "package.module:factory" of your own (see docs/environments.md)."""
    options: dict[str, Any] = Field({})
    """Options of `use`, as {corpus = "papers/"}; docs/environments.md lists those of each built-in one."""
    timeout_s: Positive = 60.0
    """Seconds in which a scene must open, and in which it must tell its outcome and close; a slower one is a failure of lzero (kind
    environment)."""


class RewardConfig(Section):
    score: str = "em"
    """Score of an answer, 0 to 1, which is also the core score: "em" (exact match), "f1", "contains", "numeric", "math", "gaia" (see
    docs/evaluation.md), or the import path "package.module:name" of your own, (answer, task) -> float."""
    qa: float = Field(0.8, ge=0.0)
    """Weight of the answer's score, on the last step."""
    format: float = Field(0.1, ge=0.0)
    """Weight of the format reward: 1/T for each well-formed step."""
    execution: float = Field(0.1, ge=0.0)
    """Weight of the execution reward: 1/T for each cell that ran without error."""
    has_answer: Fraction = 0.0
    """Share of `qa` earned by any answer, right or wrong (0.1 in L0)."""
    f1: Fraction = 0.0
    """Share of `qa` that token F1 earns instead of exact match."""
    match: Literal["unicode", "ascii"] = "unicode"
    """Comparison of answers: "unicode" (any script; ignores case, accents and articles), or "ascii" (L0's rule: deletes everything
    outside a–z0–9)."""
    numbers: Literal["value", "text"] = "value"
    """Comparison of numbers in answers: "value" (29.0 is 29, ½ is 0.5), or "text" (digits as spelled)."""
    execution_rule: Literal["clean", "l0"] = "clean"
    """Execution reward: "clean" (each cell without error earns it), or "l0" (1 − errors/outputs, 0 for a silent cell)."""
    timeout_s: Positive = 60.0
    """Seconds that scoring one episode may take; a later reward counts as a failure (kind reward). At least 45 with "math" and
    "reasoning_gym", which give 0 to an answer that takes 40."""
    function: str = ""
    """Reward: "outcome" (the reward that the environment returns), "reasoning_gym" (the scorers of its tasks), "simpleqa" (the grades of a
    judge), or the import path "package.module:name" of your own reward, (task, episode) -> Reward, or with a third parameter `context`.
    Empty: L0's reward, with the keys above."""
    options: dict[str, Any] = Field({})
    """Options of `function`, as {strict = true}: its further parameters."""

    @pydantic.model_validator(mode="after")
    def _every_key_acts(self) -> Self:
        if self.match == "ascii" and self.numbers != "value":
            raise ValueError(
                f'numbers = "{self.numbers}" has no effect with match = "ascii", which deletes signs and points'
            )
        if self.score != "em" and not self.f1 and (set(self.changed()) & {"match", "numbers"}):
            raise ValueError(f'match and numbers have an effect on exact match and F1 only, and score = "{self.score}"')
        return self

    @property
    def is_exact_match(self) -> bool:
        """Whether the core score is exact match."""
        return not self.function and self.score == "em"

    @property
    def score_name(self) -> str:
        """The name of the core score, for displays."""
        return "exact match" if self.is_exact_match else f"score by {self.function or self.score}"


class JudgeConfig(Section):
    model: str = ""
    """Name of the model that reward functions ask for verdicts, at its endpoint; empty: none."""
    url: str = ""
    """OpenAI-compatible endpoint of the judge, as http://localhost:8000/v1; empty: OPENAI_BASE_URL, else OpenAI's."""
    key: str = "OPENAI_API_KEY"
    """Variable of the environment, or of tools.env_file, that holds the endpoint's key; empty: it needs none."""
    temperature: float = Field(0.0, ge=0.0)
    """Sampling temperature of verdicts; 0 is greedy."""
    max_tokens: Count = 512
    """Maximum tokens of a verdict."""
    at_once: Count = 16
    """Maximum number of questions at once; further ones wait, in fair turns by episode."""
    timeout_s: Positive = 60.0
    """Seconds in which the judge must answer one question."""

    @pydantic.model_validator(mode="after")
    def _every_key_acts(self) -> Self:
        if not self.model and (changed := self.changed()):
            raise ValueError(f"{changed[0]} has no effect without judge.model")
        return self
