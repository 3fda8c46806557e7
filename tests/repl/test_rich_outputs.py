"""Rich outputs: what a notebook would show, by MIME type, bounded, and in a shape that nbformat accepts."""

import base64
import json
import struct
import zlib
from collections.abc import AsyncIterator, Iterable
from typing import Any

import msgspec
import nbformat
import pytest
import pytest_asyncio
from nbformat import v4
from repl_sessions import no_tools, run, value

from lzero.agent.outputs import render_output
from lzero.config import ReplConfig
from lzero.repl import LocalPool, LocalRepl
from lzero.types import Display, Error, Execution, Output, Result, Stream

pytestmark = [pytest.mark.sandbox, pytest.mark.asyncio(loop_scope="module")]


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


PNG = (
    b"\x89PNG\r\n\x1a\n"
    + _chunk(b"IHDR", struct.pack(">IIBBBBB", 1, 1, 8, 0, 0, 0, 0))
    + _chunk(b"IDAT", zlib.compress(b"\0\0"))
    + _chunk(b"IEND", b"")
)
"""One black pixel."""


def bundles(execution: Execution) -> list[dict[str, str]]:
    assert execution.status == "ok", execution
    return [output.data for output in execution.outputs if isinstance(output, Result | Display)]


def to_notebook(cells: Iterable[tuple[str, tuple[Output, ...]]]) -> Any:
    """Return a notebook of sources and their outputs.

    `Output`s are in nbformat's shape, except for `metadata` and `execution_count`, which a notebook adds, and JSON, which it holds decoded.
    """
    notebook = v4.new_notebook()
    for number, (source, outputs) in enumerate(cells, start=1):
        converted = []
        for output in outputs:
            plain = msgspec.to_builtins(output)
            if isinstance(output, Result | Display):
                plain["metadata"] = {}
                if "application/json" in output.data:
                    plain["data"]["application/json"] = json.loads(output.data["application/json"])
            if isinstance(output, Result):
                plain["execution_count"] = number
            converted.append(nbformat.from_dict(plain))
        notebook.cells.append(v4.new_code_cell(source, execution_count=number, outputs=converted))
    return notebook


async def test_a_data_frame_is_a_table_in_html_and_text(repl: LocalRepl) -> None:
    execution = await run(repl, "import pandas as pd\npd.DataFrame({'a': [1]})")
    (result,) = execution.outputs
    assert isinstance(result, Result)
    assert list(result.data) == ["text/plain", "text/html"]
    assert result.data["text/plain"] == "   a\n0  1"
    assert "<th>0</th>" in result.data["text/html"]
    assert render_output(execution, max_chars=1000) == "   a\n0  1"


async def test_plain_values_have_text_alone(repl: LocalRepl) -> None:
    for code in ("1", "'x'", "[1, 2]", "{'a': (1, None)}", "b'x'", "1.5j", "range(3)", "int", "len", "object()"):
        (data,) = bundles(await run(repl, code))
        assert list(data) == ["text/plain"]


async def test_plain_values_are_shown_as_a_cell_says(repl: LocalRepl) -> None:
    html = "get_ipython().display_formatter.formatters['text/html']"
    await run(repl, f"{html}.for_type(list, lambda items: f'<p>{{len(items)}}</p>')")
    await run(repl, f"{html}.for_type_by_name('builtins', 'float', '<b>{{}}</b>'.format)")
    shown = [bundles(await run(repl, code))[0].get("text/html") for code in ("[1, 2]", "0.5", "7", "True")]
    assert shown == ["<p>2</p>", "<b>0.5</b>", None, None]
    await run(repl, f"{html}.for_type(int, '<i>{{}}</i>'.format)")
    shown = [bundles(await run(repl, code))[0].get("text/html") for code in ("7", "True", "'text'")]
    assert shown == ["<i>7</i>", "<i>True</i>", None]


async def test_markdown_latex_svg_json_and_images(repl: LocalRepl) -> None:
    code = f"""
from IPython.display import HTML, JSON, SVG, Image, Latex, Markdown, display
png = {PNG!r}
display(Markdown("# title"), Latex("$x$"), HTML("<b>bold</b>"), SVG("<svg/>"), JSON({{"a": [1, None]}}))
display(Image(data=png))
class Both:
    def _repr_png_(self): return png
    def _repr_jpeg_(self): return b"\\xff\\xd8"
    def __repr__(self): return "Both"
Both()
"""
    shown = bundles(await run(repl, code))
    assert [data[mime] for data, mime in zip(shown, ("text/markdown", "text/latex", "text/html"), strict=False)] == [
        "# title",
        "$x$",
        "<b>bold</b>",
    ]
    assert shown[3]["image/svg+xml"] == "<svg/>"
    assert json.loads(shown[4]["application/json"]) == {"a": [1, None]}
    assert base64.b64decode(shown[5]["image/png"]) == PNG
    assert shown[6] == {
        "text/plain": "Both",
        "image/png": base64.b64encode(PNG).decode(),
        "image/jpeg": base64.b64encode(b"\xff\xd8").decode(),
    }


async def test_the_policy_reads_text_and_is_told_of_the_rest(repl: LocalRepl) -> None:
    code = f"""
from IPython.display import display
display({{"image/png": {base64.b64encode(PNG).decode()!r}}}, raw=True)
display({{"text/html": "<b>", "text/plain": "bold"}}, raw=True)
display({{"application/x-strange": "?"}}, raw=True)
"""
    assert render_output(await run(repl, code), max_chars=1000) == "[image/png]\nbold"


async def test_a_representation_that_fails_leaves_the_others(repl: LocalRepl) -> None:
    code = "class Half:\n    def _repr_html_(self): raise ValueError('no html')\n    def __repr__(self): return 'half'\nHalf()"
    (failed, result) = (await run(repl, code)).outputs
    assert isinstance(failed, Error)
    assert (failed.ename, failed.evalue) == ("ValueError", "no html")
    assert result == Result(data={"text/plain": "half"})


async def test_a_display_can_be_changed_and_outputs_cleared(repl: LocalRepl) -> None:
    code = """
from IPython.display import clear_output, display, update_display
handle = display("first", display_id=True)
display("named", display_id="name")
print("between")
handle.update("second")
update_display("renamed", display_id="name")
"""
    execution = await run(repl, code)
    assert execution.outputs == (
        Display(data={"text/plain": "'second'"}),
        Display(data={"text/plain": "'renamed'"}),
        Stream(name="stdout", text="between\n"),
    )
    assert (await run(repl, "handle.update('third')")).outputs == (Display(data={"text/plain": "'third'"}),)
    progress = "for n in range(5):\n    clear_output(wait=True)\n    print(n)"
    assert (await run(repl, progress)).outputs == (Stream(name="stdout", text="4\n"),)
    assert (await run(repl, "print(1)\n!echo 2\nclear_output()\n!echo 3")).outputs == (
        Stream(name="stdout", text="3\n"),
    )


async def test_what_does_not_fit_is_left_out_and_the_text_says_so(pool: LocalPool) -> None:
    async with LocalPool(ReplConfig(output_kb=64, disk_mb=1)) as small:
        repl = await small.open((), no_tools, seed=0)
        image = "class Image:\n    def __init__(self, n): self.n = n\n    def _repr_png_(self): return bytes(self.n)"
        fits, large = bundles(await run(repl, f"{image}\ndisplay(Image(40_000))\nImage(40_000)"))
        assert len(base64.b64decode(fits["image/png"])) == 40_000
        assert "image/png" not in large
        assert "[image/png of 53336 characters left out]" in large["text/plain"]
        assert large["text/plain"].startswith("<__main__.Image")
        (text,) = (await run(repl, "print('x' * 100_000)")).outputs
        assert isinstance(text, Stream)
        assert len(text.text) < 2_100
        stdout, stderr = (await run(repl, "!yes")).outputs  # ends as it has filled the disk
        assert isinstance(stdout, Stream)
        assert isinstance(stderr, Stream)
        assert "stdout: nothing is captured beyond its first 1048576 bytes" in stderr.text
        assert await value(repl, "6 * 7") == "42"
        await repl.close()
    repl = await pool.open((), no_tools, seed=0)
    (fits,) = bundles(await run(repl, f"{image}\nImage(1_200_000)"))
    assert len(fits["image/png"]) == 1_600_000
    await repl.close()


async def test_hostile_representations_stay_within_a_frame(repl: LocalRepl) -> None:
    code = """
class Hostile:
    def __init__(self, size): self.size = size
    def _repr_mimebundle_(self, **_):
        types = ("text/plain", "text/html", "text/markdown", "text/latex", "image/svg+xml", "image/png", "image/jpeg")
        return dict.fromkeys((*types, "text/made/up", "x" * 1000), "\\0" * self.size) | {"application/json": ["\\0"] * self.size}
for size in (1_000_000, 10_000, 1_000) * 30:
    display(Hostile(size))
"""
    execution = await repl.run(code, deadline_s=120.0)
    total = sum(len(text) for data in bundles(execution) for text in data.values())
    assert 500_000 < total < 2_000_000
    assert await value(repl, "6 * 7") == "42"


async def test_outputs_become_a_valid_notebook(repl: LocalRepl) -> None:
    sources = [
        "import pandas as pd\nfrom IPython.display import JSON, Image, Markdown, display\nprint('hello')",
        "display(pd.DataFrame({'a': [1]}), Markdown('# title'), JSON({'a': [1, None]}))",
        f"Image(data={PNG!r})",
        "import sys\nprint('oops', file=sys.stderr)\n1 / 0",
        "6 * 7",
    ]
    executions = [await run(repl, source) for source in sources]
    notebook = to_notebook((source, execution.outputs) for source, execution in zip(sources, executions, strict=True))
    nbformat.validate(notebook)
    again = nbformat.reads(nbformat.writes(notebook), as_version=4)
    kinds = [[output["output_type"] for output in cell["outputs"]] for cell in again["cells"]]
    assert kinds == [["stream"], ["display_data"] * 3, ["execute_result"], ["stream", "error"], ["execute_result"]]
    assert again["cells"][2]["outputs"][0]["data"]["image/png"].strip() == base64.b64encode(PNG).decode()


@pytest_asyncio.fixture(loop_scope="module")
async def magic(repl: LocalRepl) -> AsyncIterator[LocalRepl]:
    yield repl
    assert await value(repl, "6 * 7") == "42"  # whatever it was, the session lives


MAGICS = {
    "%timeit": ("%timeit -n 2 -r 2 sum(range(10))", "per loop"),
    "%%time": ("%%time\nx = 1", "Wall time"),
    "%cd to nowhere": ("%cd nowhere", "No such file or directory: 'nowhere'\n/workspace"),
    "%%python": ("%%python\nimport numpy, sys\nprint(numpy.arange(2), sys.executable)", "[0 1] /opt/environment"),
    "!python": ("!python -c 'print(6 * 7)'", "42"),
    "%cd": ("import os\nos.mkdir('inner')\n%cd inner\nprint(os.getcwd())", "/workspace/inner"),
    "%pwd": ("%pwd", "/workspace"),
    "!ls": ("open('file', 'w').close()\n!ls", "file"),
    "%ls": ("open('file', 'w').close()\n%ls", "file"),
    "%%bash": ("%%bash\necho from bash", "from bash"),
    "%%sh": ("%%sh\necho from sh", "from sh"),
    "%%writefile": ("%%writefile note.txt\nhello", "Writing note.txt"),
    "%run": ("open('script.py', 'w').write('print(\"from a script\", __name__)\\n')\n%run script.py", "__main__"),
    "%env": ("%env HOME", "/workspace"),
    "%who": ("a = 1\n%who", "a"),
    "%history": ("a = 1\n%history", "%history"),
    "%pip": ("%pip install requests", "No module named pip"),
    "!lines": ("lines = !echo one; echo two\nlines", "['one', 'two']"),
    "%matplotlib": ("%matplotlib inline", "matplotlib"),
    "%edit": ("%edit", "UsageError: there is no editor"),
    "%store": ("stored = [1, 2]\n%store stored\ndel stored\n%store -r stored\nprint(stored)", "[1, 2]"),
    "%no_such": ("%no_such", "UsageError: Line magic function `%no_such` not found"),
    "%%no_such": ("%%no_such\nx", "UsageError: Cell magic `%%no_such` not found"),
    "%debug": ("%debug", "No traceback"),
    "object?": ("len?", "Return the number of items"),
    "Out": ("[Out[1]] if 1 in Out else In[1]", "Out"),
}


@pytest.mark.parametrize(("code", "shown"), MAGICS.values(), ids=MAGICS.keys())
async def test_magics_work_or_say_why_not(magic: LocalRepl, code: str, shown: str) -> None:
    execution = await run(magic, code)
    assert execution.status in ("ok", "error"), execution
    assert shown in render_output(execution, max_chars=4000)


async def test_results_are_kept_by_number(repl: LocalRepl) -> None:
    await run(repl, "40")
    assert await value(repl, "_ + 2") == "42"
    assert await value(repl, "_, __, _1, Out[1], Out, In[1]") == "(42, 40, 40, 40, {1: 40, 2: 42}, '40')"
