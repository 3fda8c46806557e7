"""Names that a tool may have in a session: it is called by its name there."""

import builtins
import keyword
import unicodedata

RESERVED = frozenset((*dir(builtins), *keyword.kwlist, "self", "ToolError", "display", "get_ipython", "In", "Out"))
"""Names that a tool would hide from the code of a cell, or that Python would not let it have."""


def name_problem(name: object) -> str:
    """Why code cannot call a tool by this name; "" where it can."""
    if not isinstance(name, str) or not name.isidentifier() or keyword.iskeyword(name):
        return "is not a valid Python name"
    if unicodedata.normalize("NFKC", name) != name:
        return "contains letters that Python replaces by others"
    if name.startswith("_"):
        return "begins with an underscore, as names of the session itself do"
    if name in RESERVED:
        return "would hide a name of Python or of the session"
    return ""
