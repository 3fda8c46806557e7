"""`lzero run`: ask NB-Agent a question, and watch it work."""

import asyncio
from pathlib import Path
from typing import Annotated

import typer

TERMINATED = 143
"""Exit code after SIGTERM, or after the terminal was closed."""


def run(
    question: Annotated[str, typer.Argument(help="The question.", show_default=False)] = "",
    model: Annotated[
        str, typer.Option("--model", "-m", help="Name of a model at an endpoint, or a Hugging Face model directory.")
    ] = "",
    base_url: Annotated[
        str,
        typer.Option(
            help="OpenAI-compatible endpoint, as http://localhost:8000/v1; default: OPENAI_BASE_URL, else OpenAI."
        ),
    ] = "",
    file: Annotated[list[Path] | None, typer.Option("--file", "-f", help="A file for the agent (repeatable).")] = None,
    tool: Annotated[
        list[str] | None,
        typer.Option(
            "--tool", "-t", help='A tool: "web_search", "read_page", … or "package.module:name" (repeatable).'
        ),
    ] = None,
    mcp: Annotated[
        list[str] | None, typer.Option(help='An MCP server: "stdio:COMMAND ARGUMENT …", a URL, or a file (repeatable).')
    ] = None,
    corpus: Annotated[
        str, typer.Option(help="A directory of documents, or a file of passages, for the `search` tool.")
    ] = "",
    max_steps: Annotated[int | None, typer.Option(min=1, help="Maximum steps.")] = None,
    max_tokens: Annotated[int | None, typer.Option(min=1, help="Maximum tokens of a prompt and its reply.")] = None,
    memory: Annotated[
        str | None,
        typer.Option(
            help="When max-tokens is reached: none (stop), soft (summarise earlier steps), hard (drop them).",
            show_default="soft",
        ),
    ] = None,
    temperature: Annotated[float, typer.Option(min=0.0, help="Sampling temperature; 0 is greedy.")] = 1.0,
    ability: Annotated[
        str, typer.Option(help="Prompt for a kind of task: qa, math, data, search, files.", show_default="qa, or files")
    ] = "",
    answer: Annotated[str, typer.Option(help="Answer style: direct, short, report.", show_default="as asked")] = "",
    workspace_out: Annotated[
        Path | None, typer.Option(help="Directory to save the files of the agent's workspace in.", show_default=False)
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Directory to save the run in.", show_default="runs/run-<date>-<time>")
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option("--config", "-c", help="A TOML file; its sections for training have no effect."),
    ] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="SECTION.KEY=VALUE, a change to the configuration (repeatable).")
    ] = None,
) -> None:
    """Ask a question: NB-Agent thinks, writes Python and reads its output, step by step, until it submits an answer.

    Example: lzero run "How many primes are there below 10,000?" --model gpt-5-mini
    """
    from lzero.cli.ask import ask
    from lzero.cli.question import Question

    agent = {"max_steps": max_steps, "max_tokens": max_tokens, "memory": memory, "answer_style": answer or None}
    asked = Question(
        text=question,
        model=model,
        base_url=base_url,
        files=tuple(file or ()),
        tools=tuple(tool or ()),
        mcp=tuple(mcp or ()),
        corpus=corpus,
        ability=ability,
        temperature=temperature,
        agent={name: value for name, value in agent.items() if value is not None},
        workspace_out=workspace_out,
        out=out,
        config=config,
        changes=tuple(set_ or ()),
    )
    try:
        came_to_its_end = asyncio.run(ask(asked))
    except asyncio.CancelledError:
        raise typer.Exit(TERMINATED) from None
    if not came_to_its_end:
        raise typer.Exit(1)
