"""Types that all sections share."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

NANO = "nano"
"""`model.path` of the model that comes with the package."""
ROW_FILES = (".jsonl", ".jsonl.gz", ".parquet")
"""Endings of files of tasks and passages."""


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=False, validate_default=True, allow_inf_nan=False)


Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Positive = Annotated[float, Field(gt=0.0)]
Count = Annotated[int, Field(ge=1)]
