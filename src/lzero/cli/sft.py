"""`lzero sft`: fine-tune any model on recorded episodes.

lzero eval engine.kind=scripted engine.policy=expert tasks.eval=world/sft eval.num_tasks=2000 run.dir=runs/expert
lzero sft 'sft.episodes=["runs/expert"]' sft.tokens=500000
lzero eval model.path=runs/world-sft-20260131-174501/model
"""

from typing import TYPE_CHECKING, Annotated

import typer

from lzero.cli.arguments import Arguments, print_json, read_config, say

if TYPE_CHECKING:
    from rich.console import Console

    from lzero.train.sft import SftStep

LINES = 40
"""Number of printed lines, without those of held-out losses."""


def sft(
    arguments: Arguments = None,
    json: Annotated[bool, typer.Option("--json", help="End with one line of JSON.")] = False,
) -> None:
    """Fine-tune a model on recorded episodes, with loss on the agent's own tokens only.

    Example: lzero sft 'sft.episodes=["runs/expert"]' sft.tokens=500000

    `sft.episodes` names run directories of `lzero eval` or `lzero train`. The result is a model directory.
    """
    config = read_config(arguments)
    from rich.console import Console

    from lzero.train.sft import fine_tune

    console = Console()
    report = Report(console, num_tokens=config.sft.tokens)
    done = fine_tune(config, on_step=report.stepped)
    say(
        console,
        f"held-out loss {done.held_out_before:.4f} → {done.held_out_after:.4f} nats per token after {done.steps} steps and "
        f"{done.tokens:,} tokens in {done.seconds:.1f} s\nmodel: {done.model_dir}",
    )
    if json:
        line = {
            "held_out_before": done.held_out_before,
            "held_out_after": done.held_out_after,
            "steps": done.steps,
            "tokens": done.tokens,
            "seconds": round(done.seconds, 3),
            "model_dir": str(done.model_dir),
        }
        print_json(line)


class Report:
    """Prints one line after each fortieth of the tokens."""

    def __init__(self, console: "Console", *, num_tokens: int) -> None:
        self._console = console
        self._num_tokens = num_tokens
        self._next = 0

    def stepped(self, step: "SftStep") -> None:
        if step.held_out is None and step.tokens < self._next:
            return
        self._next = step.tokens + self._num_tokens // LINES
        held_out = "" if step.held_out is None else f"   held-out loss {step.held_out:.4f}"
        say(
            self._console,
            f"step {step.step:>6}   {min(1.0, step.tokens / self._num_tokens):>4.0%}   loss {step.loss:.4f}{held_out}",
        )
