"""What examples/, docs/agent.md and the README show of NB-Agent is so: notebooks and scripts are executed as they stand.

In the place of a real model and a real search service are servers on loopback, which answer as a script says.
"""

import asyncio
import os
import re
import shutil
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import nbformat
import pytest
from chat_servers import ChatServer, ended, streams, text, usage
from starlette.responses import Response
from web_servers import Request, json_response, serving

pytestmark = pytest.mark.sandbox

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
NOTEBOOKS = sorted(EXAMPLES.glob("*.ipynb"))
ASK = "<think>I ask the tool.</think>\n<code>\nhours = opening_hours('Rodin', day='Thursday')\nprint(hours)\n</code>"
SUBMIT = "<think>10 to 18: it closes at 18.</think>\n<code>\nsubmit_final_answer(hours[-2:])\n</code>"
SEARCH = "<think>I search broadly first.</think>\n<code>\nfound = web_search('Lyon Sunday')\nprint(found)\n</code>"
FOUND = "<think>One says until when.</think>\n<code>\nsubmit_final_answer('the one <b>that</b> closes at 19')\n</code>"
SCRIPTS = [("README.md", "ask.py"), ("docs/agent.md", "watch.py"), ("docs/agent.md", "keep.py")]


@asynccontextmanager
async def model(*replies: str) -> AsyncIterator[dict[str, str]]:
    """Return the environment of a program in which OpenAI is a model that gives these replies in turn, in each conversation."""

    def answer(body: dict[str, Any]) -> Response:
        given = sum(message["role"] == "assistant" for message in body["messages"])
        return streams(*text(replies[min(given, len(replies) - 1)]), ended(), usage(100, 50))(body)

    async with ChatServer(answer) as server:
        yield os.environ | {"OPENAI_BASE_URL": server.url, "OPENAI_API_KEY": "none", "OPENAI_MODEL": "any"}


async def run(*command: str | Path, folder: Path, environment: dict[str, str]) -> str:
    process = await asyncio.create_subprocess_exec(
        *command, cwd=folder, env=environment, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    out, said = await process.communicate()
    assert process.returncode == 0, said.decode()
    return out.decode()


async def executed(notebook: Path, folder: Path, environment: dict[str, str]) -> Any:
    """Return the notebook as Jupyter leaves it, executed in its own directory."""
    nbconvert = (sys.executable, "-m", "nbconvert", "--execute", "--to", "notebook", "--output-dir")
    await run(*nbconvert, folder, notebook, folder=notebook.parent, environment=environment)
    return nbformat.read(folder / notebook.name, as_version=4)


def outputs(notebook: Any) -> list[list[Any]]:
    """Return the outputs of each code cell."""
    return [
        [output.get("text") or output.data for output in cell.outputs]
        for cell in notebook.cells
        if cell.cell_type == "code"
    ]


def blocks(file: str) -> dict[str, str]:
    """Return scripts and templates of a document, by the name in their first line."""
    found = re.findall(r"^```(?:python|jinja)\n((?:#|\{#) (\S+).*?)^```$", document(file), re.DOTALL | re.MULTILINE)
    return {name: block for block, name in found}


def document(file: str) -> str:
    return (ROOT / file).read_text(encoding="utf-8")


@pytest.mark.parametrize("file", NOTEBOOKS, ids=lambda file: file.stem)
def test_an_example_is_a_valid_notebook_that_the_readme_tells_of(file: Path) -> None:
    nbformat.validate(nbformat.read(file, as_version=4))
    assert file.name in document("examples/README.md")


async def test_the_search_in_the_docs_puts_out_what_is_saved_in_it(tmp_path: Path) -> None:
    file = EXAMPLES / "search_docs.ipynb"
    now = await executed(file, tmp_path, os.environ | {"XDG_CACHE_HOME": str(tmp_path)})
    assert outputs(now) == outputs(nbformat.read(file, as_version=4)), "run it again, and save it"
    assert "28" in outputs(now)[-1][0]["text/plain"]


async def test_the_deep_search_runs_to_its_end(tmp_path: Path) -> None:
    async def searxng(request: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(json_response({"results": [{"url": "https://example.org/", "title": "A", "content": "B"}]}))

    file = EXAMPLES / "deep_search.ipynb"
    assert not any(outputs(nbformat.read(file, as_version=4))), "it is saved without outputs"
    (tmp_path / "out").mkdir()
    shutil.copy(file, tmp_path)
    async with model(SEARCH, FOUND) as environment, serving(searxng) as web:
        found = await executed(tmp_path / file.name, tmp_path / "out", environment | {"SEARXNG_URL": web.url})
    assert len(web.requests) == 1
    _, steps, answer, kept = outputs(found)
    assert "→ web_search {'query': 'Lyon Sunday'}" in steps[0]
    assert answer[0]["text/markdown"] == "the one &lt;b>that&lt;/b> closes at 19"
    assert kept[0]["text/plain"] == "['episode.jsonl', 'notebook.ipynb']"


@pytest.mark.parametrize(("file", "name"), SCRIPTS, ids=lambda part: part)
async def test_a_script_prints_what_stands_below_it(file: str, name: str, tmp_path: Path) -> None:
    for other, block in (blocks("README.md") | blocks("docs/agent.md")).items():
        (tmp_path / other).write_text(block, encoding="utf-8")
    script = blocks(file)[name]
    (tmp_path / name).write_text(script, encoding="utf-8")
    async with model(ASK, SUBMIT) as environment:
        said = await run(sys.executable, name, folder=tmp_path, environment=environment)
    assert f"{script}```\n\n```text\n{said}```\n" in document(file)
