"""Run cells in an IPython shell; results, displays and tracebacks go to `Outputs`, in the MIME types of a notebook."""

import base64
import json
import linecache
import subprocess
import sys
import traceback
import warnings
from contextlib import AbstractContextManager, nullcontext
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn

import heap
import loops
from capture import TYPES, Outputs
from IPython.core import pylabtools
from IPython.core.compilerop import CachingCompiler
from IPython.core.displayhook import DisplayHook
from IPython.core.displaypub import DisplayPublisher
from IPython.core.error import UsageError
from IPython.core.history import HistoryManager
from IPython.core.interactiveshell import InteractiveShell

_HERE = str(Path(__file__).parent)
_FRAMES = 24
"""The most frames of a traceback; the middle of a longer one is left out."""
_PLAIN = frozenset((int, float, complex, bool, str, bytes, list, tuple, dict, set, frozenset, range, type(None)))
"""Types that are shown as text unless a cell registers a formatter: asking every formatter would double a trivial cell's time."""
_IMAGE_BACKENDS = ("inline", "module://matplotlib_inline.backend_inline", "agg", "cairo", "pdf", "pgf", "ps", "svg")
"""Backends of matplotlib that need no screen and no page of a notebook."""
_IMPORTS = "import numpy, pandas\npandas.DataFrame({'a': numpy.arange(3) / 2}).describe()"
_WARM_UP = (
    _IMPORTS,
    "def f(n):\n    return n / 0\nf(1)",
    "x = = 1",
    "%who",
    "import asyncio\nawait asyncio.sleep(0)",
    "print({'a': [1, 2]})",
)
_WARM_UP_FIGURE = "import matplotlib.pyplot\nmatplotlib.pyplot.plot([1]);"
"""Extra warm-up cell, if matplotlib is installed."""
_ORDINARY = (
    "import numpy, pandas",
    "x = 1",
    "def f(n):\n    return n * 2\nf(x)",
    "print(x)",
    "f(x)[0]",
    "",
)
"""Cells like those that every session runs; the code behind them is worth placing together."""
_TIMES = 8
"""Runs after which the interpreter has specialised that code."""


class _Compiler(CachingCompiler):
    def get_code_name(self, raw_code: str, transformed_code: str, number: int) -> str:
        return f"<cell {number}>"


class _Results(DisplayHook):
    def write_output_prompt(self) -> None:
        pass

    def compute_format_data(self, result: object) -> tuple[dict[str, str], dict[str, Any]]:
        formatter = self.shell.display_formatter
        if type(result) in _PLAIN and not self._has_printer(result):
            return {"text/plain": formatter.formatters["text/plain"](result)}, {}
        data, _ = formatter.format(result)
        return data, {}

    def _has_printer(self, value: object) -> bool:
        """Return whether a cell has registered a formatter, other than text's, for this value or its type."""
        kinds = type(value).__mro__
        return any(
            (singletons and id(value) in singletons)
            or (types and any(kind in types for kind in kinds))
            or (deferred and any((kind.__module__, kind.__name__) in deferred for kind in kinds))
            for singletons, types, deferred in self._printers
        )

    @cached_property
    def _printers(self) -> list[tuple[dict[Any, Any], ...]]:
        """Registries of all formatters but the one for text. IPython changes them in place."""
        display = self.shell.display_formatter
        others = [formatter for mime, formatter in display.formatters.items() if mime != "text/plain"]
        return [
            (each.singleton_printers, each.type_printers, each.deferred_printers)
            for each in (*others, display.ipython_display_formatter, display.mimebundle_formatter)
        ]

    def write_format_data(self, format_dict: dict[str, str], md_dict: object = None) -> None:
        bundle = _bundle(format_dict)
        if bundle:
            self.shell.outputs.show("execute_result", bundle)

    def quiet(self) -> bool:
        """Return whether the cell ends in a semicolon. It tokenises the cell only if there may be one."""
        return ";" in self.shell.history_manager.input_hist_parsed[-1] and super().quiet()

    def log_output(self, format_dict: dict[str, str]) -> None:
        """Do nothing. IPython's own method would keep a second copy of every output, images included."""

    def finish_displayhook(self) -> None:
        self._is_active = False


class _Displays(DisplayPublisher):
    def publish(
        self,
        data: dict[str, Any],
        *_: object,
        transient: dict[str, Any] | None = None,
        update: bool = False,
        **__: object,
    ) -> None:
        name = str((transient or {}).get("display_id", ""))
        bundle = _bundle(data)
        if bundle:
            self.shell.outputs.show("display_data", bundle, name=name, update=update)

    def clear_output(self, wait: bool = False) -> None:
        self.shell.outputs.clear(wait=wait)


class Shell(InteractiveShell):
    """IPython without a terminal, history, colours or threads."""

    outputs: Outputs
    _errors_shown = 0

    def __init__(self, **settings: Any) -> None:
        HistoryManager.enabled = False  # its thread would make forking unsafe
        super().__init__(
            displayhook_class=_Results,
            display_pub_class=_Displays,
            compiler_class=_Compiler,
            colors="nocolor",
            **settings,
        )
        self.display_formatter.active_types = list(TYPES)
        self.system = self._run_in_shell
        self.set_hook("editor", _refuse_to_edit)
        self.extension_manager.load_extension("storemagic")
        loops.install()
        warnings.filterwarnings("ignore", message="To exit: use", module="IPython")

    def warm_up(self, outputs: Outputs) -> None:
        """Run typical cells, so that their imports and caches exist before the first fork, and their code takes few pages.

        Raises the errors of importing numpy and pandas.
        """
        self.outputs = outputs
        self.run_cell(_IMPORTS).raise_error()
        for code in (*_WARM_UP, *([_WARM_UP_FIGURE] if "matplotlib" in sys.modules else ())):
            self.run_cell(code, store_history=True)
        heap.gather(self._ordinary_cells)
        for _ in range(_TIMES):
            self._ordinary_cells()
        outputs.take()
        del self.outputs  # each session has its own
        loops.close_idle()  # each session makes its own
        for name in (
            "last_type",
            "last_value",
            "last_traceback",
            "last_exc",
        ):  # of errors in the warm-up, which %debug would show
            vars(sys).pop(name, None)
        for name in [name for name in linecache.cache if name.startswith("<cell ")]:
            del linecache.cache[name]
        self.reset(new_session=True)
        self.execution_count = 1

    def _ordinary_cells(self) -> None:
        self.execution_count = 1
        for code in _ORDINARY:
            self.run_cell(code, store_history=True)

    def run_cell(self, *code: Any, **options: Any) -> Any:
        """Run a cell. A cell that shows an error has failed even if IPython continues: after a failed representation, or in a script of
        `%run`."""
        loops.go_on()
        shown = self._errors_shown
        result = super().run_cell(*code, **options)
        loops.go_on()
        if result.success and self._errors_shown > shown:
            result.error_in_exec = RuntimeError("the cell has shown an error")
        return result

    def should_run_async(self, raw_cell: str, **details: Any) -> bool:
        """Return whether the cell has a top-level `await`. It parses the cell again only if there may be one."""
        return ("await" in raw_cell or "async" in raw_cell) and super().should_run_async(raw_cell, **details)

    def _tee(self, channel: str) -> AbstractContextManager[None]:
        """Do nothing. IPython's own method would keep a second copy of all that a cell prints, as long as the session lives."""
        return nullcontext()

    def showtraceback(self, exc_tuple: Any = None, *_: object, **__: object) -> None:
        self._errors_shown += 1
        kind, value, trace = self._get_exc_info(exc_tuple)
        self.outputs.error(kind.__name__, _text(value), _format(value, trace))

    def showsyntaxerror(self, *_: object, **__: object) -> None:
        self.showtraceback()

    def _format_exception_for_storage(self, *_: object, **__: object) -> dict[str, Any]:
        """Return nothing. IPython's own method looks up the source of every frame. That takes seconds after a deep recursion, and fails if
        an exception has no text; nothing uses the result."""
        return {}

    def enable_matplotlib(self, gui: str | None = None) -> tuple[str | None, str]:
        _, backend = pylabtools.find_gui_and_backend(gui, self.pylab_gui_select)
        if backend.lower() not in _IMAGE_BACKENDS:
            raise UsageError(f"there is no screen and no page for {gui!r}; figures are shown as images")
        selected: tuple[str | None, str] = super().enable_matplotlib(gui)
        # IPython's own runner of %run draws once more after the figures have been shown, which makes an empty one.
        self.magics_manager.registry["ExecutionMagics"].default_runner = None
        return selected

    def enable_gui(self, gui: str | None = None) -> None:
        """Refuse a GUI. `%matplotlib inline` asks for none, and a figure is a display anyway."""
        if gui:
            raise UsageError(f"there is no screen for {gui!r}; figures are shown as images")

    def ask_exit(self) -> NoReturn:
        """Raise SystemExit, like `sys.exit()`: a session ends with its episode."""
        raise SystemExit

    def _run_in_shell(self, command: str) -> None:
        """Run `!command`; its output is captured at the descriptors."""
        code = subprocess.call(self.var_expand(command, depth=1), shell=True)  # noqa: S602 - the agent's own shell
        self.user_ns["_exit_code"] = code


def _refuse_to_edit(*_: object) -> NoReturn:
    raise UsageError("there is no editor; write a file with %%writefile and run it with %run")


def _bundle(data: dict[str, Any]) -> dict[str, str]:
    """Return a representation by MIME type, all as text: images in Base64, JSON serialised."""
    return {mime: _as_text(mime, data[mime]) for mime in TYPES if data.get(mime) is not None}


def _as_text(mime: str, value: object) -> str:
    if mime == "application/json":
        return json.dumps(value, default=repr)
    return base64.b64encode(value).decode() if isinstance(value, bytes) else str(value)


def _text(value: BaseException) -> str:
    try:
        return str(value)
    except Exception:
        return f"<{type(value).__name__} whose text cannot be made>"


def _format(value: BaseException, trace: TracebackType | None) -> list[str]:
    """Return the lines of the traceback, from the cell on, as Python prints it."""
    if isinstance(value, UsageError):
        return [f"UsageError: {value}"]
    try:
        report = traceback.TracebackException(type(value), value, trace, compact=True)
        _keep_cell_frames(report)
        lines = report.format() if report.stack else report.format_exception_only()
        return "".join(lines).rstrip("\n").split("\n")
    except Exception:  # an exception whose own methods fail
        return [f"{type(value).__name__}: {_text(value)}"]


def _keep_cell_frames(report: traceback.TracebackException) -> None:
    """Leave out the frames of IPython above the cell, those of lzero, and the middle of a very deep traceback."""
    pending, seen = [report], set()
    while pending:
        one = pending.pop()
        if id(one) in seen:
            continue
        seen.add(id(one))
        frames = list(one.stack)
        first = next((place for place, frame in enumerate(frames) if frame.filename.startswith("<cell ")), len(frames))
        if first < len(frames) or (isinstance(one.exc_type, type) and issubclass(one.exc_type, SyntaxError)):
            frames = frames[first:]
        frames = [frame for frame in frames if not frame.filename.startswith(_HERE)]
        one.stack[:] = frames if len(frames) <= _FRAMES else frames[: _FRAMES // 2] + frames[-_FRAMES // 2 :]
        pending += [other for other in (one.__cause__, one.__context__, *(one.exceptions or ())) if other is not None]
