"""The notepad, on the host: the plan and facts that an agent keeps in view. Its content comes from the session, and is not trusted."""

from functools import cache
from importlib import resources

import msgspec

from lzero.agent.frame import unframed
from lzero.agent.outputs import cut
from lzero.blocking import in_thread
from lzero.errors import ToolError
from lzero.protocols import ToolContext
from lzero.types import Json, Notepad
from lzero.visible import clean

MAX_TODOS = 100
MAX_FACTS = 200
ITEM_CHARS = 1_000
"""The most characters of a todo or a fact."""
DRAFT_CHARS = 20_000
QUICK_CHARS = 4_000
"""The most characters that are cleaned on the event loop, up to 500 times a cell."""
_MARKS = {"open": "[ ]", "done": "[x]", "dropped": "[-]"}


class NotepadTool:
    """The object `notepad` of a session, and the tool behind it, which receives the whole state with every change.

    A session that replaces a killed one gets its notepad.
    """

    name = "notepad"
    parameters = ("state",)
    description = "notepad\nA plan, facts and a draft that stay in view."

    def __init__(self) -> None:
        self.state = Notepad()

    @property
    def kernel_source(self) -> str:
        state = msgspec.json.encode(self.state).decode()
        return f"{_source()}\nimport json\nnotepad = Notepad(json.loads({state!r}), ask)\n"

    async def call(self, arguments: dict[str, Json], context: ToolContext) -> Json:
        try:
            state = msgspec.convert(arguments.get("state"), Notepad)
        except msgspec.ValidationError as error:
            raise ToolError(f"the notepad cannot hold this: {error}", fault="agent") from None
        if refused := _refusal(state):
            raise ToolError(f"the notepad cannot hold this: {refused}", fault="agent")
        is_quick = sum(map(len, (*(todo.text for todo in state.todos), *state.facts, state.draft))) <= QUICK_CHARS
        self.state = _cleaned(state) if is_quick else await in_thread(_cleaned, state)
        return None


def render_notepad(notepad: Notepad, *, max_chars: int) -> str:
    """Return the text that the model reads, in at most `max_chars` characters; "" for an empty notepad. Further lines of an item are
    indented."""
    lines = [f"{_MARKS[todo.status]} {number}. {_indented(todo.text)}" for number, todo in enumerate(notepad.todos, 1)]
    if notepad.facts:
        lines += ["facts:", *(f"{number}. {_indented(fact)}" for number, fact in enumerate(notepad.facts, 1))]
    if notepad.draft:
        lines += ["draft:", notepad.draft]
    if not lines:
        return ""
    text = cut(unframed("\n".join(lines)), max_chars)
    return f"<notepad>\n{text}\n</notepad>"


def _indented(item: str) -> str:
    return item.replace("\n", "\n   ")


def _refusal(state: Notepad) -> str:
    if len(state.todos) > MAX_TODOS:
        return f"{len(state.todos)} items are more than {MAX_TODOS}; clear what is done"
    if len(state.facts) > MAX_FACTS:
        return f"{len(state.facts)} facts are more than {MAX_FACTS}; remove or merge some"
    if len(state.draft) > DRAFT_CHARS:
        return f"a draft of {len(state.draft)} characters is longer than {DRAFT_CHARS}; keep long texts in a file"
    longest = max((*(todo.text for todo in state.todos), *state.facts), key=len, default="")
    if len(longest) > ITEM_CHARS:
        return f"an item of {len(longest)} characters is longer than {ITEM_CHARS}; keep long texts in variables"
    return ""


def _cleaned(state: Notepad) -> Notepad:
    return Notepad(
        todos=tuple(msgspec.structs.replace(todo, text=clean(todo.text)) for todo in state.todos),
        facts=tuple(map(clean, state.facts)),
        draft=clean(state.draft),
    )


@cache
def _source() -> str:
    return resources.files("lzero.agent").joinpath("in_session/notepad.py").read_text(encoding="utf-8")
