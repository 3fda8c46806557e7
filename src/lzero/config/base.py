"""Types and error messages that all sections share."""

import re
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

NANO = "nano"
"""`model.path` of the bundled model."""
ROW_FILES = (".jsonl", ".jsonl.gz", ".parquet")
"""File name endings of task and passage files."""


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=False, validate_default=True, allow_inf_nan=False)

    def changed(self) -> list[str]:
        """Return the keys whose values differ from their defaults."""
        return [name for name, field in type(self).model_fields.items() if getattr(self, name) != field.default]


Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Positive = Annotated[float, Field(gt=0.0)]
Count = Annotated[int, Field(ge=1)]


def wrong_value(detail: Mapping[str, Any], key: str) -> str:
    """Return the message for a value of `key` that pydantic rejected: "train.lr = -1: Input should be greater than 0"."""
    message = detail["msg"].removeprefix("Value error, ")
    if detail["type"] == "value_error" and isinstance(detail["input"], Mapping):
        return f"{key}: {message}"  # from a validator of several keys, whose message names them
    value = re.sub(r"://[^/@\s]*@", "://…@", repr(detail["input"]))  # an address may hold a password
    return f"{key} = {value}: {message}"
