"""The tool `inspect_file`: shows the content of a workspace file in a form that a model can read."""

from lzero.config import Config
from lzero.errors import ToolError
from lzero.protocols import Tool, ToolContext
from lzero.tools.catalog import KernelPython
from lzero.tools.converter import MAX_CHARS, Converter
from lzero.tools.function import tool


def open_inspect_file(config: Config, _: KernelPython) -> Tool:
    """Return the tool with the limit of [tools]. Raises ConfigError if the libraries of the extra `files` are missing."""
    return make_inspect_file(Converter(), max_chars=config.tools.file_chars)


def make_inspect_file(converter: Converter, *, max_chars: int = MAX_CHARS) -> Tool:
    """Return the tool `inspect_file(path, part, start)`, with at most `max_chars` of a file's text per answer."""

    @tool
    async def inspect_file(path: str, context: ToolContext, part: str = "", start: int = 0) -> str:
        """What a file of the workspace holds, as Markdown or text: PDF, Word, PowerPoint, Excel, CSV, JSON, HTML, text; of an image its
        size, of an archive its list.
        part: a piece of it: pages or slides "3-5", rows of a CSV "100-200", "Sheet1" or "Sheet1!A1:F50", a member of an archive.
        start: where to go on in a long text, as the end of what was cut says."""
        if start < 0:
            raise ToolError(f"start={start} is before the beginning; characters count from 0", fault="agent")
        return await converter.text(await context.read_file(path), path, part=part, start=start, max_chars=max_chars)

    return inspect_file
