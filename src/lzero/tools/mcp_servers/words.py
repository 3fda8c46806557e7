"""What a server says of its tools, and what they answer, as an agent may see it: pure, and nothing of it trusted.

{"name": "read-file", "inputSchema": {"properties": {"path": {"type": "string"}, "lines": {"type": "integer", "default": 10}},
                                      "required": ["path"]}}       read_file(path: str, lines: int = 10) -> str
"""

import builtins
import itertools
import json
import keyword
import re
import unicodedata
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lzero.types import Json

if TYPE_CHECKING:
    from mcp.types import CallToolResult, ContentBlock

MAX_MESSAGE = 8 * 1024 * 1024
"""Bytes of one message of a server."""
MAX_RESULT = 200_000
"""Characters of what one call returns."""
MAX_PARAMETERS = 64
_NAME_CHARS = 64
_SIGNATURE_CHARS = 1_000
_TEXT_CHARS = 2_000
_PARAMETER_CHARS = 200
_TYPE_DEPTH = 3
_TYPES = {"string": "str", "integer": "int", "number": "float", "boolean": "bool", "object": "dict", "null": "None"}
_OF_CELLS = ("self", "ToolError", "display", "get_ipython", "In", "Out")
_RESERVED = frozenset((*dir(builtins), *keyword.kwlist, *keyword.softkwlist, *_OF_CELLS))
"""Names that a tool would hide from the code of a cell."""


@dataclass(frozen=True)
class Signature:
    """The parameters of a tool. `names` maps each, as an agent writes it, to the server's own name for it, required ones first."""

    names: dict[str, str]
    required: frozenset[str]
    text: str
    """`(path: str, lines: int = 10) -> str`"""
    notes: tuple[str, ...]
    """What the server says of a parameter, a line each."""


def tool_name(name: str, *, server: str, taken: Collection[str]) -> str:
    """A Python identifier for a server's tool: its own name where that is free, else with the server's name before it."""
    own = identifier(name, "tool")
    candidates = itertools.chain((own, f"{identifier(server, 'mcp')}_{own}"[:_NAME_CHARS]), _numbered(own))
    return next(candidate for candidate in candidates if candidate not in taken and candidate not in _RESERVED)


def identifier(text: str, otherwise: str) -> str:
    """The nearest Python identifier in ASCII; `otherwise` where nothing of `text` can be in one."""
    found = re.sub(r"[^A-Za-z0-9]+", "_", text[:_NAME_CHARS]).strip("_")
    if not found:
        return otherwise
    return f"{otherwise}_{found}" if found[0].isdigit() else found


def signature(input_schema: Mapping[str, Any], output_schema: Mapping[str, Any] | None) -> Signature:
    properties, definitions = _table(input_schema.get("properties")), _definitions(input_schema)
    listed = input_schema.get("required")
    required = [name for name in properties if name in listed] if isinstance(listed, list) else []
    names: dict[str, str] = {}
    shown, notes = [], []
    for name in [*required, *(name for name in properties if name not in required)][:MAX_PARAMETERS]:
        schema = _table(properties[name])
        own = _parameter_name(name, names)
        names[own] = name
        shown.append(f"{own}: {_type_of(schema, definitions)}{'' if name in required else _default(schema)}")
        if text := one_line(schema.get("description"), _PARAMETER_CHARS):
            notes.append(f"{own}: {text}")
    result = _type_of(_unwrapped(output_schema), _definitions(output_schema)) if output_schema else "str"
    text = _cut(f"({', '.join(shown)}) -> {result}", _SIGNATURE_CHARS)
    return Signature(names, frozenset(own for own, name in names.items() if name in required), text, tuple(notes))


def description(name: str, signature: Signature, text: str | None, *, server: str) -> str:
    """Signature, what the server says of the tool, a line for each parameter that it says something of, and who says so."""
    said = _cut("\n".join(line.strip() for line in plain(text or "").strip().splitlines()), _TEXT_CHARS)
    lines = [f"{name}{signature.text}", said, *signature.notes, f"(of the MCP server {one_line(server, _NAME_CHARS)})"]
    return "\n".join(line for line in lines if line)


def answer(result: "CallToolResult") -> Json:
    """What a call returns: the structured content where there is one, else text, in which whatever is no text is noted."""
    structured = result.structured_content
    if structured is not None and all(block.type in ("text", "resource_link") for block in result.content):
        if isinstance(structured, dict) and set(structured) == {"result"}:
            structured = structured["result"]  # how the SDKs wrap what is no object
        text = json.dumps(structured, ensure_ascii=False)
        return structured if len(text) <= MAX_RESULT else _cut(text, MAX_RESULT)
    return _cut("\n".join(map(_text_of, result.content)), MAX_RESULT)


def one_line(value: object, max_chars: int) -> str:
    """A text on one line, without what a terminal or a chat template would obey; "" for what is no text."""
    if not isinstance(value, str):
        return ""
    return _cut(" ".join(plain(value[: 4 * max_chars]).split()), max_chars)


def plain(text: str) -> str:
    """A stranger's text for a system prompt: control and format characters are written out, and so is what looks like the marks
    that chat templates put around turns, which an endpoint might read as such."""
    text = "".join(_escaped(character) for character in text[: 4 * _TEXT_CHARS])
    return text.replace("<|", "< |").replace("|>", "| >")


def _escaped(character: str) -> str:
    if character in "\n\t" or unicodedata.category(character) not in ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"):
        return character
    return character.encode("unicode_escape").decode()


def _parameter_name(name: str, taken: Collection[str]) -> str:
    own = name if name.isidentifier() and name.isascii() and len(name) <= _NAME_CHARS else identifier(name, "argument")
    own = f"{own}_" if keyword.iskeyword(own) else own
    return next(candidate for candidate in itertools.chain((own,), _numbered(own)) if candidate not in taken)


def _numbered(name: str) -> Iterator[str]:
    return (f"{name[:_NAME_CHARS]}_{number}" for number in itertools.count(2))


def _type_of(schema: Mapping[str, Any], definitions: Mapping[str, Any], depth: int = 0) -> str:
    """As a Python annotation; `Any` for what would take too long to say."""
    if depth > _TYPE_DEPTH:
        return "Any"
    if isinstance(reference := schema.get("$ref"), str):
        return _type_of(_table(definitions.get(reference.rpartition("/")[2])), definitions, depth + 1)
    choices = schema.get("enum")
    if (
        isinstance(choices, list)
        and 0 < len(choices) <= 12
        and all(isinstance(choice, str | int) for choice in choices)
    ):
        return f"Literal[{', '.join(_literal(choice) for choice in choices)}]"
    for key in ("anyOf", "oneOf"):
        if isinstance(found := schema.get(key), list) and found:
            return _union(_type_of(_table(option), definitions, depth + 1) for option in found[:8])
    kind = schema.get("type")
    if isinstance(kind, list):
        return _union(_type_of({**schema, "type": one}, definitions, depth + 1) for one in kind[:8])
    if kind == "array":
        return f"list[{_type_of(_table(schema.get('items')), definitions, depth + 1)}]"
    return _TYPES.get(kind, "Any") if isinstance(kind, str) else "Any"


def _definitions(schema: Mapping[str, Any]) -> Mapping[str, Any]:
    return _table(schema.get("$defs") or schema.get("definitions"))


def _union(options: Iterable[str]) -> str:
    found = list(dict.fromkeys(options))
    return "Any" if "Any" in found else " | ".join(found)


def _default(schema: Mapping[str, Any]) -> str:
    return f" = {_literal(schema['default'])}" if "default" in schema else " = …"


def _literal(value: object) -> str:
    if isinstance(value, str):
        return f"'{one_line(value, 40)}'"
    text = repr(value) if value is None or isinstance(value, bool | int | float) else json.dumps(value)
    return one_line(text, 40)


def _unwrapped(schema: Mapping[str, Any]) -> Mapping[str, Any]:
    properties = _table(schema.get("properties"))
    return _table(properties["result"]) if set(properties) == {"result"} else schema


def _table(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _text_of(block: "ContentBlock") -> str:
    if block.type == "text":
        return block.text
    if block.type == "resource_link":
        return f"[resource {one_line(block.name, 100)}: {one_line(str(block.uri), 300)}]"
    if block.type == "resource":
        text = getattr(block.resource, "text", None)
        return text if isinstance(text, str) else f"[resource {one_line(str(block.resource.uri), 300)}, not text]"
    return f"[{block.type} {one_line(block.mime_type, 60)}, {len(block.data.rstrip('=')) * 3 // 4:,} bytes]"


def _cut(text: str, max_chars: int) -> str:
    if len(text) <= max_chars:
        return text
    mark = f" [… {len(text):,} characters, cut]"
    return text[: max(0, max_chars - len(mark))] + mark
