"""Convert a server's descriptions and answers to a form for agents: pure functions of untrusted input.

{"name": "read-file", "inputSchema": {"properties": {"path": {"type": "string"}, "lines": {"type": "integer", "default": 10}},
                                      "required": ["path"]}}       read_file(path: str, lines: int = 10) -> str
"""

import itertools
import json
import keyword
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lzero.tools.names import RESERVED
from lzero.tools.shapes import Shapes, cut, default, definitions_of, note, one_line, plain, table
from lzero.types import Json

if TYPE_CHECKING:
    from mcp.types import CallToolResult, ContentBlock

MAX_RESULT = 200_000
"""The most characters of one call's result."""
MAX_PARAMETERS = 64
_NAME_CHARS = 64
_SIGNATURE_CHARS = 1_000
_TEXT_CHARS = 2_000
_RESERVED = RESERVED | frozenset(keyword.softkwlist)


@dataclass(frozen=True)
class Signature:
    """The parameters of a tool. `names` maps each name that an agent writes to the server's own name, required ones first."""

    names: dict[str, str]
    required: frozenset[str]
    text: str
    """`(path: str, lines: int = 10) -> str`"""
    notes: tuple[str, ...]
    """One line for each parameter that the server describes, and for each named type."""


def tool_name(name: str, *, server: str, taken: Collection[str]) -> str:
    """Return a Python identifier for a server's tool: its own name if that is free, else with the server's name before it."""
    own = identifier(name, "tool")
    candidates = itertools.chain((own, f"{identifier(server, 'mcp')}_{own}"[:_NAME_CHARS]), _numbered(own))
    return next(candidate for candidate in candidates if candidate not in taken and candidate not in _RESERVED)


def identifier(text: str, otherwise: str) -> str:
    """Return the nearest Python identifier in ASCII; `otherwise` if no character of `text` can be in one."""
    found = re.sub(r"[^A-Za-z0-9]+", "_", text[:_NAME_CHARS]).strip("_")
    if not found:
        return otherwise
    return f"{otherwise}_{found}" if found[0].isdigit() else found


def signature(input_schema: Mapping[str, Any], output_schema: Mapping[str, Any] | None) -> Signature:
    properties, shapes = table(input_schema.get("properties")), Shapes(definitions_of(input_schema), given=True)
    listed = input_schema.get("required")
    needed = {name for name in listed if isinstance(name, str)} if isinstance(listed, list) else set()
    required = [name for name in properties if name in needed]
    names: dict[str, str] = {}
    shown, notes = [], []
    for name in [*required, *(name for name in properties if name not in needed)][:MAX_PARAMETERS]:
        schema = table(properties[name])
        own = _parameter_name(name, names)
        names[own] = name
        shown.append(f"{own}: {shapes.annotation(schema)}{'' if name in needed else default(schema)}")
        if text := note(schema):
            notes.append(f"{own}: {text}")
    returned = Shapes(definitions_of(output_schema or {}), given=False)
    result = returned.annotation(_unwrapped(output_schema)) if output_schema else "str"
    text = cut(f"({', '.join(shown)}) -> {result}", _SIGNATURE_CHARS)
    notes += dict.fromkeys((*shapes.definitions(), *returned.definitions()))
    return Signature(names, frozenset(own for own, name in names.items() if name in needed), text, tuple(notes))


def description(name: str, signature: Signature, text: str | None, *, server: str) -> str:
    """Return the signature, the server's description of the tool, a line for each described parameter, and the server's name."""
    said = cut(
        "\n".join(line.strip() for line in plain((text or "")[: 4 * _TEXT_CHARS]).strip().splitlines()), _TEXT_CHARS
    )
    lines = [f"{name}{signature.text}", said, *signature.notes, f"(of the MCP server {one_line(server, _NAME_CHARS)})"]
    return "\n".join(line for line in lines if line)


def answer(result: "CallToolResult") -> Json:
    """Return the result of a call: the structured content if there is one, else text with a note for everything that is not text."""
    structured = result.structured_content
    if structured is not None and all(block.type in ("text", "resource_link") for block in result.content):
        if isinstance(structured, dict) and set(structured) == {"result"}:
            structured = structured["result"]  # the SDKs' wrapper of values that are not objects
        text = json.dumps(structured, ensure_ascii=False)
        return structured if len(text) <= MAX_RESULT else cut(text, MAX_RESULT)
    return cut("\n".join(map(_text_of, result.content)), MAX_RESULT)


def _parameter_name(name: str, taken: Collection[str]) -> str:
    own = name if name.isidentifier() and name.isascii() and len(name) <= _NAME_CHARS else identifier(name, "argument")
    own = f"{own}_" if keyword.iskeyword(own) else own
    return next(candidate for candidate in itertools.chain((own,), _numbered(own)) if candidate not in taken)


def _numbered(name: str) -> Iterator[str]:
    return (f"{name[:_NAME_CHARS]}_{number}" for number in itertools.count(2))


def _unwrapped(schema: Mapping[str, Any]) -> Mapping[str, Any]:
    properties = table(schema.get("properties"))
    return table(properties["result"]) if set(properties) == {"result"} else schema


def _text_of(block: "ContentBlock") -> str:
    if block.type == "text":
        return block.text
    if block.type == "resource_link":
        return f"[resource {one_line(block.name, 100)}: {one_line(str(block.uri), 300)}]"
    if block.type == "resource":
        text = getattr(block.resource, "text", None)
        return text if isinstance(text, str) else f"[resource {one_line(str(block.resource.uri), 300)}, not text]"
    return f"[{block.type} {one_line(block.mime_type, 60)}, {len(block.data.rstrip('=')) * 3 // 4:,} bytes]"
