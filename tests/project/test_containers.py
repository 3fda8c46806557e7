"""containers/*.Dockerfile: what they copy is there and let in, and nothing runs as root. No image is built here."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / "containers").glob("*.Dockerfile"))
LET_IN = {line[1:] for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").split() if line.startswith("!")}


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_container_copies_files_that_are_let_in_and_runs_as_no_root(file: Path) -> None:
    text = file.read_text(encoding="utf-8").replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    sources = [name for line in lines if line.startswith("COPY") for name in line.split()[2:-1]]
    assert sources
    assert all((ROOT / name).exists() for name in sources)
    assert {name.split("/")[0] for name in sources} <= LET_IN
    assert [line for line in lines if line.startswith("USER")][-1] == "USER 1000"
    assert not any(line.startswith("ADD") for line in lines)
    assert re.fullmatch(r"FROM [a-z/]+:\d[\w.-]+", lines[0])


def test_containers_let_in_nothing_but_what_they_copy() -> None:
    everything = " ".join(file.read_text(encoding="utf-8") for file in FILES)
    assert all(name in everything for name in LET_IN)
