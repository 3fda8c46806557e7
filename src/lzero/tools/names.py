"""Valid names of tools: in a session, a tool is a global function of its name."""

import builtins
import keyword
import unicodedata

RESERVED = frozenset((*dir(builtins), *keyword.kwlist, "self", "ToolError", "display", "get_ipython", "In", "Out"))
"""Names that belong to Python or the session; a tool of such a name would hide them."""


def name_problem(name: object) -> str:
    """Return why a cell cannot call a tool by this name ("is not a valid Python name"); "" if it can."""
    if not isinstance(name, str) or not name.isidentifier() or keyword.iskeyword(name):
        return "is not a valid Python name"
    if unicodedata.normalize("NFKC", name) != name:
        return "contains letters that Python replaces by others"
    if name.startswith("_"):
        return "begins with an underscore, as names of the session itself do"
    if name in RESERVED:
        return "would hide a name of Python or of the session"
    return ""
