"""Keys of tasks."""

from typing import Any, Self

import pydantic
from pydantic import Field

from lzero.config.base import ROW_FILES, Section


class TasksConfig(Section):
    train: str = Field(
        "world",
        description='"world" (built in), a .jsonl/.jsonl.gz/.parquet file of tasks, "reasoning_gym:chain_sum" or another of its '
        'generators, or the import path "package.module:factory" of your own source.',
    )
    eval: str = Field(
        "world", description="Source of held-out tasks, as for `train`. The world's splits never overlap."
    )
    options: dict[str, Any] = Field(
        {}, description="Options of a source that is named with a colon, as {largest = 20}."
    )
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
