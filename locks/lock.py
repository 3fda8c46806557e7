"""Resolve every package once and write the locks: `make lock`.

    python locks/lock.py python3.11 python3.12 python3.13

Writes two files of pip constraints: `locks/lzero.txt` for lzero with all extras, and `src/lzero/assets/kernel/lock.txt` for the
kernel environment. pip-tools resolves through pip, so pip's own settings hold, for one Python at a time. This script merges the
answers: a version that all Pythons share has no marker.
"""

import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path

ROOT = Path(__file__).parents[1]
KERNEL = ROOT / "src" / "lzero" / "assets" / "kernel"
PIP_TOOLS = "pip-tools==7.6.2"
TORCH = "torch==2.13.0"
"""The set-up installs this release exactly; pyproject.toml keeps an open range."""
BROUGHT_BY_TORCH = re.compile(r"nvidia-|cuda-|triton$")
"""torch's CUDA build pins these itself, and the CPU build has none of them."""
COMPILE = (
    *(
        "-m",
        "piptools",
        "compile",
        "--quiet",
        "--all-extras",
        "--strip-extras",
        "--allow-unsafe",
        "--resolver=backtracking",
    ),
    *("--no-header", "--no-annotate", "--no-emit-index-url", "--no-emit-find-links", "--no-emit-trusted-host"),
)
HEADER = "# What the set-up installs, made by `make lock`: pip constraints for Python {} and newer.\n"


def main(pythons: Sequence[str]) -> int:
    if not pythons:
        print(f"usage: {sys.argv[0]} PYTHON [PYTHON …]", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory() as scratch:
        resolvers = dict(sorted(_resolver(python, Path(scratch)) for python in pythons))
        for source, lock in (
            (ROOT / "pyproject.toml", ROOT / "locks" / "lzero.txt"),
            (KERNEL / "requirements.txt", KERNEL / "lock.txt"),
        ):
            pins = {version: _resolve(python, source, Path(scratch)) for version, python in resolvers.items()}
            oldest = ".".join(map(str, next(iter(pins))))
            lock.write_text(HEADER.format(oldest) + "".join(f"{line}\n" for line in merge(pins)), encoding="utf-8")
            print(f"wrote {lock.relative_to(ROOT)}")
    return 0


def merge(pins: Mapping[tuple[int, int], Mapping[str, str]]) -> list[str]:
    """Return constraints, given name → version of each Python, oldest first."""
    lines = []
    for name in sorted({name for found in pins.values() for name in found}):
        needed = [(python, found[name]) for python, found in pins.items() if name in found]
        groups = [
            (version, [python for python, _ in members]) for version, members in groupby(needed, lambda pin: pin[1])
        ]
        for index, (version, members) in enumerate(groups):
            bounds = []
            if index > 0:
                bounds.append(f'python_version >= "{_dotted(members[0])}"')
            if index + 1 < len(groups):
                bounds.append(f'python_version < "{_dotted(groups[index + 1][1][0])}"')
            lines.append(f"{name}=={version}" + (f" ; {' and '.join(bounds)}" if bounds else ""))
    return lines


def _resolver(python: str, scratch: Path) -> tuple[tuple[int, int], Path]:
    """Return the version of `python`, and the interpreter of a new environment of it that has pip-tools."""
    asked = subprocess.run(
        [python, "-c", "import sys; print(*sys.version_info[:2])"],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    major, minor = map(int, asked.stdout.split())
    environment = scratch / f"{major}.{minor}"
    subprocess.run([python, "-m", "venv", str(environment)], check=True, timeout=300)
    interpreter = environment / "bin" / "python"
    subprocess.run([interpreter, "-m", "pip", "install", "--quiet", PIP_TOOLS], check=True, timeout=900)
    return (major, minor), interpreter


def _resolve(python: Path, source: Path, scratch: Path) -> dict[str, str]:
    """Return name → version of everything that `source` requires, on this Python."""
    constraint = scratch / "torch.txt"
    constraint.write_text(TORCH + "\n", encoding="utf-8")
    answer = scratch / "answer.txt"
    answer.unlink(missing_ok=True)  # pip-tools would prefer the versions that stand there
    arguments = [str(python), *COMPILE, "--constraint", str(constraint), "--output-file", str(answer), str(source)]
    subprocess.run(arguments, check=True, cwd=ROOT, timeout=1800)
    pins = dict(
        re.split("==", line.partition(";")[0].strip(), maxsplit=1)
        for line in answer.read_text(encoding="utf-8").splitlines()
        if "==" in line
    )
    # A local version (2.13.0+cpu) names one build of a release; any build of it will do.
    return {name: pin.partition("+")[0] for name, pin in pins.items() if not BROUGHT_BY_TORCH.match(name)}


def _dotted(version: tuple[int, int]) -> str:
    return ".".join(map(str, version))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
