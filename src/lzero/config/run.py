"""Keys of a run: its directory and seed, its model, its tasks."""

from typing import Any, Literal, Self

import pydantic
from pydantic import Field

from lzero.config.base import NANO, ROW_FILES, Positive, Section


class RunConfig(Section):
    dir: str = Field(
        "", description="Run directory; empty: runs/<name>-<date>-<time>. Only --resume changes an existing one."
    )
    name: str = Field("world", description="First part of the run directory's name.")
    seed: int = Field(0, ge=0, description="Seed of everything random in the run.")
    deterministic: bool = Field(
        False,
        description="Make episodes, metrics and weights on CPU depend on the seed only, not on timing; slower (see docs/training.md).",
    )
    trackers: tuple[Literal["tensorboard", "wandb"], ...] = Field(
        (), description="Services that show training metrics in addition to metrics.jsonl (extra `tracking`)."
    )
    wandb: Literal["offline", "online"] = Field(
        "offline",
        description='Keep Weights & Biases data on this machine ("offline"), or upload it with WANDB_API_KEY ("online").',
    )


class ModelConfig(Section):
    path: str = Field(
        NANO,
        description='"nano" (bundled), a Hugging Face model directory with its tokenizer, or, for `lzero sft`, "fresh": '
        "new random weights in the nano's shape, and a tokenizer of the words in the demonstrations.",
    )
    dtype: Literal["float32", "bfloat16"] = Field(
        "float32",
        description="Type of the weights, in sampling and in training; AdamW updates float32 copies of bfloat16 weights.",
    )
    device: str = Field("auto", description='"auto" (CUDA if available), or a torch device: "cpu", "cuda:1".')


class TasksConfig(Section):
    train: str = Field(
        "world",
        description='"world" (built in), a .jsonl/.jsonl.gz/.parquet file of tasks, or the import path "package.module:factory" of your '
        "own source.",
    )
    eval: str = Field(
        "world", description="Source of held-out tasks, as for `train`. The world's splits never overlap."
    )
    options: dict[str, Any] = Field({}, description="Options of your own source, as {largest = 20}.")
    columns: dict[str, str] = Field(
        {},
        description='Columns of a task file that hold the fields of a task: {question = "utterance", answers = "target"}; "a.b" is column '
        'b inside of a; "" reads the field from no column.',
    )
    hops: tuple[int, ...] = Field((1, 2, 3), description="Hop counts of the world's questions, in equal parts.")

    @pydantic.model_validator(mode="after")
    def _every_key_acts(self) -> Self:
        if self.options and not any(":" in spec and not spec.endswith(ROW_FILES) for spec in (self.train, self.eval)):
            raise ValueError(
                "options has an effect with a source of your own only: neither tasks.train nor tasks.eval names one"
            )
        if self.columns and not (self.train.endswith(ROW_FILES) or self.eval.endswith(ROW_FILES)):
            raise ValueError("columns has an effect with task files only: neither tasks.train nor tasks.eval names one")
        return self


class EnvironmentConfig(Section):
    use: str = Field(
        "search",
        description='World that agents act in: "search" (a tool that searches the passages of a task, or a corpus), "none", or the import '
        'path "package.module:factory" of your own (see docs/environments.md).',
    )
    options: dict[str, Any] = Field(
        {}, description='Options of `use`, as {corpus = "papers/"}; docs/environments.md lists those of "search".'
    )
    timeout_s: Positive = Field(
        60.0,
        description="Seconds in which a scene must open, and in which it must tell its outcome and close; a slower one is a failure "
        "of lzero (kind environment).",
    )
