"""`lzero run`: ask NB-Agent a question, and watch it work."""

import asyncio
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
from typer import Option

from lzero.cli.arguments import takes

TERMINATED = 143
"""Exit code after SIGTERM, or after the terminal was closed."""


@dataclass(frozen=True, kw_only=True)
class Question:
    """A question, the model that answers it, its tools and files. `max_steps` to `answer` change keys of [agent]."""

    text: Annotated[str, typer.Argument(metavar="QUESTION", help="The question.", show_default=False)] = ""
    model: Annotated[
        str, Option("--model", "-m", help="Name of a model at an endpoint, or a Hugging Face model directory.")
    ] = ""
    base_url: Annotated[
        str,
        Option(help="OpenAI-compatible endpoint, as http://localhost:8000/v1; default: OPENAI_BASE_URL, else OpenAI."),
    ] = ""
    file: Annotated[list[Path] | None, Option("--file", "-f", help="A file for the agent (repeatable).")] = None
    tool: Annotated[
        list[str] | None,
        Option("--tool", "-t", help='A tool: "web_search", "read_page", … or "package.module:name" (repeatable).'),
    ] = None
    mcp: Annotated[
        list[str] | None, Option(help='An MCP server: "stdio:COMMAND ARGUMENT …", a URL, or a file (repeatable).')
    ] = None
    corpus: Annotated[str, Option(help="A directory of documents, or a file of passages, for the `search` tool.")] = ""
    max_steps: Annotated[int | None, Option(min=1, help="Maximum steps.")] = None
    max_tokens: Annotated[int | None, Option(min=1, help="Maximum tokens of a prompt and its reply.")] = None
    memory: Annotated[
        str | None,
        Option(
            help="When max-tokens is reached: none (stop), soft (summarise earlier steps), hard (drop them).",
            show_default="soft",
        ),
    ] = None
    temperature: Annotated[float, Option(min=0.0, help="Sampling temperature; 0 is greedy.")] = 1.0
    ability: Annotated[
        str, Option(help="Prompt for a kind of task: qa, math, data, search, files.", show_default="qa, or files")
    ] = ""
    answer: Annotated[str, Option(help="Answer style: direct, short, report.", show_default="as asked")] = ""
    workspace_out: Annotated[
        Path | None, Option(help="Directory to save the files of the agent's workspace in.", show_default=False)
    ] = None
    out: Annotated[Path | None, Option(help="Directory to save the run in.", show_default="runs/run-<date>-<time>")] = (
        None
    )
    config: Annotated[
        Path | None, Option("--config", "-c", help="A TOML file; its sections for training have no effect.")
    ] = None
    set: Annotated[
        list[str] | None, Option("--set", help="SECTION.KEY=VALUE, a change to the configuration (repeatable).")
    ] = None


@takes(Question)
def run(question: Question) -> None:
    """Ask a question: NB-Agent thinks, writes Python and reads its output, step by step, until it submits an answer.

    Example: lzero run "How many primes are there below 10,000?" --model gpt-5-mini
    """
    from lzero.cli.ask import ask

    try:
        came_to_its_end = asyncio.run(ask(question))
    except asyncio.CancelledError:
        raise typer.Exit(TERMINATED) from None
    if not came_to_its_end:
        raise typer.Exit(1)
