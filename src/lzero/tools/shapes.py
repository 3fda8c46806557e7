"""Show JSON schemas as Python annotations, for the signatures of tools in a system prompt.

    {"type": "object", "properties": {"year": {"type": "integer"}}, "required": ["year"]}       {'year': int}
    {"$ref": "#/$defs/Place"}                                                                   Place
    {"enum": ["red", "blue"]}                                                                   Literal['red', 'blue']

The schema may come from a stranger's server, so every shown part is one line of bounded length.
"""

import json
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

_TYPES = {"string": "str", "integer": "int", "number": "float", "boolean": "bool", "object": "dict", "null": "None"}
_FORMATS = {"date-time": "datetime", "date": "date", "time": "time"}
"""Format of a text → the Python type that a cell may pass instead."""
_BOUNDS = {
    "minimum": ">= {}",
    "maximum": "<= {}",
    "exclusiveMinimum": "> {}",
    "exclusiveMaximum": "< {}",
    "multipleOf": "a multiple of {}",
    "minLength": "at least {} long",
    "maxLength": "at most {} long",
    "minItems": "at least {} items",
    "maxItems": "at most {} items",
    "pattern": "matches {}",
}
_MAX_DEPTH = 4
_MAX_CHOICES = 24
_MAX_OPTIONS = 8
_MAX_FIELDS = 64
_MAX_NAMED = 16
_MAX_PARTS = 1_000
"""The most schemas that are read for one tool; definitions that refer to each other may stand for any number."""
_LITERAL_CHARS = 40
_NOTE_CHARS = 200
_LINE_CHARS = 1_000
_NAME_CHARS = 64


class Shapes:
    """Annotations of one tool. A named type is shown by its name and defined once, in `definitions`."""

    def __init__(self, definitions: Mapping[str, Any], *, given: bool) -> None:
        """`given`: the schema describes arguments, so a datetime may replace its text; results are plain JSON data."""
        self._definitions = definitions
        self._given = given
        self._left = _MAX_PARTS
        self._named: dict[str, Mapping[str, Any]] = {}

    def annotation(self, schema: Mapping[str, Any], depth: int = 0) -> str:
        """Return the annotation that a schema describes; `Any` below _MAX_DEPTH levels, and after _MAX_PARTS schemas."""
        self._left -= 1
        if depth > _MAX_DEPTH or self._left < 0:
            return "Any"
        if isinstance(reference := schema.get("$ref"), str):
            return self._referred(reference.rpartition("/")[2], depth)
        if "const" in schema:
            return f"Literal[{literal(schema['const'])}]"
        if isinstance(choices := schema.get("enum"), list) and choices:
            shown = [*map(literal, choices[:_MAX_CHOICES]), *(["…"] if len(choices) > _MAX_CHOICES else [])]
            return f"Literal[{', '.join(shown)}]"
        for key in ("anyOf", "oneOf", "allOf"):
            if isinstance(found := schema.get(key), list) and found:
                return _union(self.annotation(table(option), depth + 1) for option in found[:_MAX_OPTIONS])
        kind = schema.get("type")
        if isinstance(kind, list):
            return _union(self.annotation({**schema, "type": one}, depth + 1) for one in kind[:_MAX_OPTIONS])
        if kind == "array":
            return self._list(schema, depth)
        if kind == "object":
            return self._dict(schema, depth)
        if kind == "string" and self._given and isinstance(form := schema.get("format"), str):
            return _FORMATS.get(form, "str")
        return _TYPES.get(kind, "Any") if isinstance(kind, str) else "Any"

    def definitions(self) -> Iterator[str]:
        """Yield a line for each named type that was shown, and one for each of its fields that has a description or bounds."""
        written: set[str] = set()
        while missing := [name for name in self._named if name not in written]:
            for name in missing:
                written.add(name)
                schema = self._named[name]
                yield cut(f"{name} = {self._dict(schema, 0)}", _LINE_CHARS)
                for field, described in list(table(schema.get("properties")).items())[:_MAX_FIELDS]:
                    if text := note(table(described)):
                        yield f"{name}.{one_line(field, _NAME_CHARS)}: {text}"

    def _referred(self, name: str, depth: int) -> str:
        schema = table(self._definitions.get(name))
        if not table(schema.get("properties")):
            return self.annotation(schema, depth + 1)
        own = "".join(character if character.isalnum() else "_" for character in one_line(name, _NAME_CHARS))
        if own not in self._named and len(self._named) >= _MAX_NAMED:
            return "dict"
        self._named.setdefault(own, schema)
        return own

    def _list(self, schema: Mapping[str, Any], depth: int) -> str:
        if isinstance(places := schema.get("prefixItems"), list) and places:
            shown = [self.annotation(table(place), depth + 1) for place in places[:_MAX_OPTIONS]]
            return f"tuple[{', '.join(shown)}]" if self._given else f"list[{_union(shown)}]"
        items = self.annotation(table(schema.get("items")), depth + 1)
        return "list" if items == "Any" else f"list[{items}]"

    def _dict(self, schema: Mapping[str, Any], depth: int) -> str:
        fields, required = table(schema.get("properties")), schema.get("required")
        needed = {name for name in required if isinstance(name, str)} if isinstance(required, list) else set()
        if not fields:
            values = self.annotation(table(schema.get("additionalProperties")), depth + 1)
            return "dict" if values == "Any" else f"dict[str, {values}]"
        parts = []
        for name, field in list(fields.items())[:_MAX_FIELDS]:
            optional = "" if name in needed or not self._given else default(table(field))
            parts.append(f"{literal(name)}: {self.annotation(table(field), depth + 1)}{optional}")
        return f"{{{', '.join(parts)}}}"


def default(schema: Mapping[str, Any]) -> str:
    """Return the default of an optional parameter as it follows the annotation: " = 5"."""
    return f" = {literal(schema['default'])}" if "default" in schema else " = …"


def note(schema: Mapping[str, Any]) -> str:
    """Return the description and the bounds in a schema, as one line; "" if there are none."""
    bounded: list[object] = [] if "prefixItems" in schema else [schema]  # prefixItems shows how many there are
    for key in ("anyOf", "items"):  # bounds of an optional value, and of each item
        inner = schema.get(key)
        bounded += inner[:_MAX_OPTIONS] if isinstance(inner, list) else [inner]
    tables = map(table, bounded)
    bounds = [words.format(literal(one[key])) for one in tables for key, words in _BOUNDS.items() if key in one]
    return "; ".join(filter(None, (one_line(schema.get("description"), _NOTE_CHARS), ", ".join(dict.fromkeys(bounds)))))


def definitions_of(schema: Mapping[str, Any]) -> Mapping[str, Any]:
    return table(schema.get("$defs") or schema.get("definitions"))


def table(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def literal(value: object) -> str:
    """Return a JSON value as a Python literal, cut to _LITERAL_CHARS characters."""
    if isinstance(value, str):
        return f"'{one_line(value, _LITERAL_CHARS)}'"
    if value is None or isinstance(value, bool | int | float):
        return one_line(repr(value), _LITERAL_CHARS)
    text = ""
    for part in json.JSONEncoder().iterencode(value):
        text += part
        if len(text) > 4 * _LITERAL_CHARS:  # do not render text that is cut anyway
            break
    return one_line(text, _LITERAL_CHARS)


def one_line(value: object, max_chars: int) -> str:
    """Return a text on one line, without control sequences of terminals and chat templates; "" if `value` is no text."""
    if not isinstance(value, str):
        return ""
    return cut(" ".join(plain(value[: 4 * max_chars]).split()), max_chars)


def plain(text: str) -> str:
    """Escape untrusted text for a system prompt: control and format characters, and marks that an endpoint might read as a turn's border
    (`<|…|>`)."""
    text = "".join(_escaped(character) for character in text)
    return text.replace("<|", "< |").replace("|>", "| >")


def cut(text: str, max_chars: int) -> str:
    if len(text) <= max_chars:
        return text
    mark = f" [… {len(text):,} characters, cut]"
    return text[: max(0, max_chars - len(mark))] + mark


def _escaped(character: str) -> str:
    if character in "\n\t" or unicodedata.category(character) not in ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"):
        return character
    return character.encode("unicode_escape").decode()


def _union(options: Iterable[str]) -> str:
    found = list(dict.fromkeys(options))
    return "Any" if "Any" in found else " | ".join(found)
