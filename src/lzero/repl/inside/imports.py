"""Imports packages in the zygote, once for all sessions, and checks that none of them starts a thread."""

import importlib
import sys
from importlib.util import find_spec
from typing import Any

from proc import thread_names

PACKAGES = ("numpy", "pandas", *(("matplotlib.pyplot",) if find_spec("matplotlib") else ()))
"""matplotlib, where it is installed: its first import looks at every font of the machine, for a second."""


def warm(shell: Any) -> None:
    """Import the packages. Raises what an import raises, and RuntimeError if it starts a thread."""
    shell.kernel = None  # pandas looks for it on import, and then does not fit the columns that it prints to a terminal
    for package in PACKAGES:
        before = _installed()
        with shell.builtin_trap:  # `get_ipython` is there, as in a cell
            importlib.import_module(package)
        others = sorted(_installed() - before - {package.partition(".")[0]})
        require_one_thread(f"{package} is imported" + (f", which imports {', '.join(others)}" if others else ""))
    del shell.kernel


def require_one_thread(when: str) -> None:
    """Raise RuntimeError if this process has more threads: a fork copies one only, and locks that the others hold stay locked."""
    names = thread_names()
    if len(names) > 1:
        raise RuntimeError(
            f"threads start as {when} ({', '.join(names)}), and what has threads cannot be forked safely"
        )


def _installed() -> set[str]:
    """Return the top-level names of the installed packages that are imported."""
    files = {
        name.partition(".")[0]: getattr(module, "__file__", None) or "" for name, module in list(sys.modules.items())
    }
    return {name for name, file in files.items() if "-packages/" in file}
