"""The session's side of the notepad: `notepad` is an object of this class, and every change goes to the host through `ask`.

This source runs in the session (`protocols.WithKernelSource`), so it needs only the standard library.
"""

import difflib
from collections.abc import Callable, Iterator
from typing import Any

_MARKS = {"open": "[ ]", "done": "[x]", "dropped": "[-]"}
_STATUSES = {
    **dict.fromkeys(
        ("open", "todo", "pending", "in progress", "in_progress", "doing", "started", "no", "false"), "open"
    ),
    **dict.fromkeys(("done", "complete", "completed", "finished", "yes", "true", "x", "ok"), "done"),
    **dict.fromkeys(("dropped", "skipped", "cancelled", "canceled", "failed", "removed", "-"), "dropped"),
}
_ALIASES = {
    **dict.fromkeys(("add", "add_todos", "add_task", "add_tasks", "add_item", "add_plan", "plan", "todo"), "add_todo"),
    **dict.fromkeys(
        ("mark_done", "mark_todo_done", "complete", "complete_todo", "finish", "check", "tick", "done_todo"), "done"
    ),
    **dict.fromkeys(("skip", "cancel", "give_up", "drop_todo", "remove_todo", "delete_todo"), "drop"),
    **dict.fromkeys(("update", "update_status", "update_todo_status", "set_status", "mark", "set_todo"), "update_todo"),
    **dict.fromkeys(("undo", "reopen_todo", "open"), "reopen"),
    **dict.fromkeys(("add_fact", "add_note", "add_notes", "note", "remember", "fact", "save"), "add_facts"),
    **dict.fromkeys(("delete_fact", "remove_facts", "forget"), "remove_fact"),
    **dict.fromkeys(("draft_answer", "set_draft", "update_draft", "write"), "write_draft"),
    **dict.fromkeys(("append", "append_draft", "add_draft"), "append_to_draft"),
    **dict.fromkeys(("show", "view", "print", "get", "display", "list", "summary"), "read"),
    **dict.fromkeys(("reset", "clear_all"), "clear"),
}


class Notepad:
    """A plan, facts and a draft, always in view.

    notepad.add_todo("find the founder", "find her twin")    notepad.done(1)    notepad.drop("twin")    notepad.reopen(1)
    notepad.add_facts("Liri's founder is Titu (entry Liri)")  notepad.remove_fact(1)
    notepad.write_draft("The answer is …")                    notepad.append_to_draft("…")
    notepad.read()    notepad.todos, notepad.facts, notepad.draft    notepad.clear()
    """

    def __init__(self, state: dict[str, Any], ask: Callable[..., Any]) -> None:
        self._state = state
        self._ask = ask

    @property
    def todos(self) -> list[dict[str, str]]:
        return [dict(todo) for todo in self._state["todos"]]

    @property
    def facts(self) -> list[str]:
        return list(self._state["facts"])

    @property
    def draft(self) -> str:
        return str(self._state["draft"])

    @draft.setter
    def draft(self, text: object) -> None:
        self.write_draft(text)

    def add_todo(self, *items: object, **named: object) -> str:
        """Add items to the plan: texts, lists of texts, or {"text": …, "status": …}."""
        new = [_todo(item) for item in _flat((*items, *named.values()))]
        return self._change(todos=[*self._state["todos"], *new])

    def done(self, *which: object) -> str:
        """Tick items off, by number (from 1) or by their text; without any, the first open one."""
        return self._mark("done", which)

    def drop(self, *which: object) -> str:
        return self._mark("dropped", which)

    def reopen(self, *which: object) -> str:
        return self._mark("open", which)

    def update_todo(self, which: object, status: object = "done", text: object = None) -> str:
        """Give one item a new status ("open", "done", "dropped") or text."""
        known = _STATUSES.get(str(status).strip().lower())
        if known is None and text is None:
            text, known = status, self._state["todos"][self._find(which)]["status"]
        todos = self.todos
        at = self._find(which)
        todos[at] = {"text": todos[at]["text"] if text is None else str(text), "status": known or "open"}
        return self._change(todos=todos)

    def add_facts(self, *facts: object, **named: object) -> str:
        """Add facts: texts, lists of texts, or a dict of name → fact."""
        new = [str(fact) for fact in _flat(facts)] + [f"{name}: {fact}" for name, fact in named.items()]
        return self._change(facts=[*self._state["facts"], *new])

    def remove_fact(self, *which: object) -> str:
        """Remove a fact, by number (from 1) or by its text."""
        facts = self.facts
        gone = {_position(each, facts, "fact") for each in _flat(which)}
        return self._change(facts=[fact for at, fact in enumerate(facts) if at not in gone])

    def write_draft(self, *text: object) -> str:
        return self._change(draft="\n".join(str(part) for part in _flat(text)))

    def append_to_draft(self, *text: object) -> str:
        return self._change(draft="\n".join(filter(None, (self.draft, *(str(part) for part in _flat(text))))))

    def read(self, *_: object) -> str:
        """Return the whole notepad as text."""
        lines = [f"{_MARKS[todo['status']]} {at}. {todo['text']}" for at, todo in enumerate(self._state["todos"], 1)]
        lines += [f"{at}. fact: {fact}" for at, fact in enumerate(self._state["facts"], 1)]
        lines += [f"draft:\n{self.draft}"] if self.draft else []
        return "\n".join(lines) or "(the notepad is empty)"

    def clear(self) -> str:
        return self._change(todos=[], facts=[], draft="")

    __str__ = __repr__ = read

    def __getattr__(self, name: str) -> Any:
        if name in _ALIASES:
            return getattr(self, _ALIASES[name])
        if name.startswith("_"):
            raise AttributeError(name)
        methods = [each for each in vars(Notepad) if not each.startswith("_")]
        nearest = difflib.get_close_matches(name, methods, n=1)
        hint = f"did you mean notepad.{nearest[0]}? " if nearest else ""
        raise AttributeError(f"notepad has no {name!r}: {hint}it has {', '.join(methods)}")

    def _mark(self, status: str, which: tuple[object, ...]) -> str:
        todos = self.todos
        named = _flat(which) or [number for number, todo in enumerate(todos, 1) if todo["status"] == "open"][:1]
        for each in named:
            todos[self._find(each)]["status"] = status
        return self._change(todos=todos)

    def _find(self, which: object) -> int:
        return _position(which, [todo["text"] for todo in self._state["todos"]], "item")

    def _change(self, **changed: Any) -> str:
        """Send the changed state to the host, and keep it here only if the host accepts it."""
        state = {**self._state, **changed}
        self._ask(state=state)
        self._state = state
        return "noted"


def _flat(items: tuple[object, ...]) -> list[object]:
    return [each for item in items for each in _each(item)]


def _each(item: object) -> Iterator[object]:
    if isinstance(item, dict) and not {"text", "todo", "task", "item", "content"} & item.keys():
        yield from (f"{name}: {value}" for name, value in item.items())
    elif isinstance(item, list | tuple | set | frozenset):
        for inner in item:
            yield from _each(inner)
    else:
        yield item


def _todo(item: object) -> dict[str, str]:
    if isinstance(item, dict):
        text = next(str(item[key]) for key in ("text", "todo", "task", "item", "content") if key in item)
        return {"text": text, "status": _STATUSES.get(str(item.get("status", "open")).strip().lower(), "open")}
    return {"text": str(item), "status": "open"}


def _position(which: object, texts: list[str], noun: str) -> int:
    """Return the index, from 0, of an item given by its number from 1, or by its text or a part of it. Raises ValueError."""
    if isinstance(which, str) and which.strip().lstrip("-").isdigit():
        which = int(which)
    if isinstance(which, int):
        if 1 <= which <= len(texts):
            return which - 1
    else:
        word = str(which).strip().lower()
        found = [at for at, text in enumerate(texts) if text.strip().lower() == word]
        found = found or [at for at, text in enumerate(texts) if word and word in text.lower()]
        if found:
            return found[0]
    there = "; ".join(f"{at}. {text[:60]}" for at, text in enumerate(texts[:20], 1)) or "there is none yet"
    raise ValueError(f"the notepad has no {noun} {which!r}: {there}")
