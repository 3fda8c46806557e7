"""Start the programs of a run: pool servers, vLLM servers, ranks of the trainer.

    async with open_launcher() as launcher:
        rank = await launcher.launch(Program(name="rank 1", role="rank", command=(PYTHON, "-m", "lzero.train.ranks")))

protocol.py   the interface
local.py      on this machine
lifeline.py   ends a program when lzero dies
"""

from lzero.launch.local import LocalLauncher
from lzero.launch.protocol import PYTHON, Launcher, Program, Running

__all__ = ["PYTHON", "Launcher", "Program", "Running", "open_launcher"]


def open_launcher() -> Launcher:
    """Return the launcher of a run, not started yet."""
    return LocalLauncher()
