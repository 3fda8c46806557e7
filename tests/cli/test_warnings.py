"""The warnings of libraries are for run.log, not for a user's display."""

import subprocess
import sys
from pathlib import Path

CODE = """
import pathlib, sys, warnings
from lzero.cli import main
from lzero.config import Config
from lzero.store import RunDirectory
try: main(["--help"])
except SystemExit: pass
run = RunDirectory.create(Config.model_validate({"run": {"dir": sys.argv[1]}}))
with run.logged():
    warnings.warn("a_library is old", FutureWarning)
"""


def warned(directory: Path, *options: str) -> str:
    """Warn as a library does, after a command has begun; return what reaches stderr."""
    command = (sys.executable, *options, "-c", CODE, str(directory))
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    return done.stderr


def test_a_warning_of_a_library_goes_to_the_log_and_not_to_the_display(tmp_path: Path) -> None:
    assert warned(tmp_path / "run") == ""
    assert "FutureWarning: a_library is old" in (tmp_path / "run" / "run.log").read_text()


def test_who_asks_python_for_warnings_sees_them(tmp_path: Path) -> None:
    assert "FutureWarning: a_library is old" in warned(tmp_path / "run", "-W", "default")
