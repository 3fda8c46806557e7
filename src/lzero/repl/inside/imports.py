"""What the zygote imports for all sessions, one package after the other, and what may not happen meanwhile."""

import importlib
import sys
from importlib.util import find_spec
from typing import Any

from proc import thread_names

PACKAGES = ("numpy", "pandas", *(("matplotlib.pyplot",) if find_spec("matplotlib") else ()))
"""matplotlib, where it is installed: its first import looks at every font of the machine, for a second."""


def warm(shell: Any) -> None:
    """Import the packages. Raises what an import raises, and RuntimeError where it starts a thread."""
    shell.kernel = None  # how pandas knows, as it is imported, that no terminal's width bounds the columns it prints
    for package in PACKAGES:
        before = _installed()
        with shell.builtin_trap:  # `get_ipython` is there, as in a cell
            importlib.import_module(package)
        others = sorted(_installed() - before - {package.partition(".")[0]})
        require_one_thread(f"{package} is imported" + (f", which imports {', '.join(others)}" if others else ""))
    del shell.kernel


def require_one_thread(when: str) -> None:
    """Raises RuntimeError where this process has more: a fork copies one of them, and what the others hold stays locked."""
    names = thread_names()
    if len(names) > 1:
        raise RuntimeError(
            f"threads start as {when} ({', '.join(names)}), and what has threads cannot be forked safely"
        )


def _installed() -> set[str]:
    """The packages that are imported, by what they are installed as."""
    files = {
        name.partition(".")[0]: getattr(module, "__file__", None) or "" for name, module in list(sys.modules.items())
    }
    return {name for name, file in files.items() if "-packages/" in file}
