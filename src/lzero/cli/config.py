"""`lzero config`: print every key of a configuration with its value and description, or the JSON schema of configurations."""

import json
import textwrap
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from lzero.cli.arguments import Arguments, read_config

if TYPE_CHECKING:
    from lzero.config import Config, Section

_WIDTH = 100


def config(
    arguments: Arguments = None,
    schema: Annotated[
        bool,
        typer.Option(
            "--schema", help="Print the JSON schema of configurations instead, with which editors complete TOML files."
        ),
    ] = False,
) -> None:
    """Print a whole configuration as TOML: each key with its value and description.

    It tries no model, file or plug-in; `lzero check` does.

    Example: lzero config recipes/world.toml algo.kl_coef=0.01 > my.toml
    """
    from lzero.config import Config

    if schema:
        print(json.dumps(Config.model_json_schema(), indent=2))
    else:
        print("\n".join(_lines(read_config(arguments))))


def _lines(config: "Config") -> Iterator[str]:
    """Yield the lines of the TOML file."""
    for number, (name, section) in enumerate(config):
        if number:
            yield ""
        yield f"[{name}]"
        yield from _keys(name, section)


def _keys(name: str, section: "Section") -> Iterator[str]:
    """Yield the lines of a section's keys. Keys with tables as values come last, as TOML requires."""
    import tomli_w

    values, descriptions = section.model_dump(mode="json"), section.descriptions()
    for key in sorted(values, key=lambda key: isinstance(values[key], dict)):
        yield from textwrap.wrap(descriptions[key], _WIDTH, initial_indent="# ", subsequent_indent="# ")
        if isinstance(values[key], dict):
            yield from _visible(tomli_w.dumps({name: {key: values[key]}})).splitlines()
        else:
            yield _visible(tomli_w.dumps({key: values[key]})).rstrip()


def _visible(toml: str) -> str:
    """Return TOML with escapes for invisible characters, and for those that a terminal acts on."""
    from lzero.visible import clean

    hidden = {
        character
        for character in set(toml) - {"\n"}
        if not character.isprintable() or clean(f"a{character}a") != f"a{character}a"
    }
    return toml.translate({ord(character): f"\\U{ord(character):08x}" for character in hidden})
