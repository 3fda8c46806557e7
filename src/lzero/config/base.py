"""Types and error messages that all sections share."""

import ast
import inspect
import re
import textwrap
from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, GetJsonSchemaHandler

NANO = "nano"
"""`model.path` of the bundled model."""
ROW_FILES = (*(".jsonl", ".jsonl.gz", ".json", ".json.gz", ".parquet", ".arrow", ".csv", ".csv.gz", ".tsv", ".tsv.gz"),)
"""File name endings of task and passage files."""


class Section(BaseModel):
    """Keys of a configuration. The text below a key describes it."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=False, validate_default=True, allow_inf_nan=False)

    def changed(self) -> list[str]:
        """Return the keys whose values differ from their defaults."""
        return [name for name, field in type(self).model_fields.items() if getattr(self, name) != field.default]

    def inert(self, name: str, *keys: str, why: str) -> list[str]:
        """Return a sentence for each of these keys that differs from its default, and has no effect; `name` is the section's."""
        values = {key: getattr(self, key) for key in keys if key in self.changed()}
        shown = {key: f'"{value}"' if isinstance(value, str) else value for key, value in values.items()}
        return [f"{name}.{key} = {value} has no effect {why}" for key, value in shown.items()]

    @classmethod
    def descriptions(cls) -> dict[str, str]:
        """Return key → its description: the text below it, in the class or one that it derives from, or that of its `Field`."""
        owners = [owner for owner in reversed(cls.__mro__) if issubclass(owner, Section)]
        given = {name: field.description for name, field in cls.model_fields.items() if field.description}
        return {name: text for owner in owners for name, text in _texts(owner)} | given

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: Any, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        found = handler(schema)
        for name, text in cls.descriptions().items():
            handler.resolve_ref_schema(found)["properties"][name]["description"] = text
        return found


def _texts(section: type[Section]) -> Iterator[tuple[str, str]]:
    """Yield the keys that a class itself defines, each with the text below it."""
    (parsed,) = ast.parse(textwrap.dedent(inspect.getsource(section))).body
    assert isinstance(parsed, ast.ClassDef)
    for key, text in pairwise(parsed.body):
        if isinstance(key, ast.AnnAssign) and isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant):
            yield ast.unparse(key.target), " ".join(str(text.value.value).split())


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
