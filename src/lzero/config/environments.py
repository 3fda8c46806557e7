"""Keys of environments."""

from typing import Any

from pydantic import Field

from lzero.config.base import Positive, Section


class EnvironmentConfig(Section):
    use: str = Field(
        "search",
        description='World that agents act in: "search" (a tool that searches the passages of a task, or a corpus), "none", "trl" (a class '
        'for TRL), or the import path "package.module:factory" of your own (see docs/environments.md).',
    )
    options: dict[str, Any] = Field(
        {},
        description='Options of `use`, as {corpus = "papers/"}; docs/environments.md lists those of each built-in one.',
    )
    timeout_s: Positive = Field(
        60.0,
        description="Seconds in which a scene must open, and in which it must tell its outcome and close; a slower one is a failure "
        "of lzero (kind environment).",
    )
