"""`lzero eval`: score any model, or a scripted policy, on any task source.

lzero eval                                              the bundled nano model on 300 held-out tasks
lzero eval model.path=./Qwen3-0.6B tasks.eval=dev.jsonl
lzero eval engine.kind=chat engine.model=gpt-5-mini tasks.eval=dev.jsonl
lzero eval engine.kind=scripted engine.policy=expert tasks.eval=world/sft eval.num_tasks=2000      (records demonstrations)
"""

import asyncio
import time
from typing import TYPE_CHECKING, Annotated

import typer

from lzero.cli.arguments import Arguments, log_visibly, read_config, say

if TYPE_CHECKING:
    from rich.console import Console

    from lzero.config import AgentConfig, Config
    from lzero.eval.evaluate import Evaluation
    from lzero.store import RunDirectory

MANY = 0.5
"""Share of episodes or steps that ran out of a budget above which the summary names its key."""
NAMES = {"eval": "greedy", "sampled": "sampled"}


def evaluate(
    arguments: Arguments = None,
    json: Annotated[bool, typer.Option("--json", help="End with one line of JSON.")] = False,
) -> None:
    """Score a model on held-out tasks: greedy exact match, by hops, and pass@k when eval.sampled_episodes is set.

    Example: lzero eval engine.kind=scripted engine.policy=expert eval.num_tasks=30

    The episodes are saved in a run directory, from which `lzero sft` can learn.
    """
    config = read_config(arguments)
    from rich.console import Console

    from lzero.rollout.deadline import budgets_line

    console = Console()
    log_visibly("%(message)s")
    say(console, f"budgets of an episode: {budgets_line(config)}")
    start = time.monotonic()
    run, evaluations = asyncio.run(_evaluate(config, console))
    seconds = time.monotonic() - start
    _show(console, evaluations, run.config)
    say(console, f"{seconds:.1f} s; episodes and metrics: {run.path}")
    if json:
        print(_as_json(evaluations, run, seconds))


async def _evaluate(config: "Config", console: "Console") -> "tuple[RunDirectory, list[Evaluation]]":
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from lzero.data.sources import unread_fields
    from lzero.engine.kinds import kind_of
    from lzero.errors import ConfigError
    from lzero.eval.evaluate import Evaluator
    from lzero.rollout.compose import build, eval_tasks
    from lzero.store import RunDirectory, check_new

    check_new(config)
    source = eval_tasks(config)
    if complaint := kind_of(config).complaint(config, source.task(0)):
        raise ConfigError(complaint)
    if unread := unread_fields(source):
        say(console, f"tasks.eval: {config.tasks.eval}: {unread}")
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    async with build(config) as opened:
        await opened.scenes.rehearse(source.task(0))
        named = config.run.model_copy(update={"name": f"{config.run.name}-eval"})
        run = RunDirectory.create(config.model_copy(update={"run": named}))
        with (
            opened.recorded(run),
            run.logged(),
            Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress,
        ):
            bar = progress.add_task("tasks")
            evaluator = Evaluator(
                runner=opened.runner, source=source, config=config, on_task=lambda: progress.advance(bar)
            )
            num_rounds = 2 if config.eval.sampled_episodes else 1
            progress.update(bar, total=evaluator.num_tasks * num_rounds)
            return run, await evaluator.record(run)


def _show(console: "Console", evaluations: "list[Evaluation]", config: "Config") -> None:
    rows = [row for evaluation in evaluations for row in summary_rows(evaluation, config)]
    if not console.is_terminal:
        for name, value, over in rows:
            say(console, f"{name}: {value} ({over})")
        return
    from rich.table import Table

    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("measure")
    table.add_column("value", justify="right")
    table.add_column("over", style="dim")
    for row in rows:
        table.add_row(*row)
    console.print(table)


def summary_rows(evaluation: "Evaluation", config: "Config") -> list[tuple[str, str, str]]:
    """Return rows of (measure, value, base). The score is called "EM" if it is exact match.

    If many episodes ran out of a budget, its row names the key.
    """
    from lzero.rollout.failures import kinds_in, listed
    from lzero.text import counted

    agent = config.agent
    name = NAMES[evaluation.phase]
    measure = f"{name} {'EM' if config.reward.is_exact_match else 'score'}"
    metrics = evaluation.metrics
    scored = evaluation.num_episodes - evaluation.num_failed
    over = f"{scored} episodes of {evaluation.num_tasks} tasks; 95 % from {metrics['score_low']:.3f} to {metrics['score_high']:.3f}"
    rows = [(measure, f"{evaluation.score:.3f}", over)]
    for hops, score in evaluation.score_by_hops.items():
        number = sum(record.task.hops == hops for record in evaluation.records)
        rows.append((f"{measure}, {counted(hops, 'hop')}", f"{score:.3f}", f"{number} tasks"))
    rows += [(f"pass@{k}", f"{value:.3f}", "unbiased") for k, value in evaluation.pass_at_k.items()]
    rows.append((f"{name} steps", f"{metrics['rollout/steps_per_episode']:.2f}", "an episode"))
    rows.append((f"{name} tokens", f"{metrics.get('rollout/tokens_per_step', 0.0):.1f}", "a step"))
    for metric, share in metrics.items():
        if metric.startswith("status/") and share:
            status = metric.removeprefix("status/")
            rows.append(
                (f"{name} {status.replace('_', ' ')}", f"{share:.1%}", f"of the episodes{_fix(status, share, agent)}")
            )
    if (cut_off := metrics.get("rollout/cut_off", 0.0)) >= MANY:
        fix = f"of the steps: raise agent.response_tokens = {agent.response_tokens:,}"
        rows.append((f"{name} replies cut off", f"{cut_off:.1%}", fix))
    if kinds := listed(kinds_in([metrics])):
        rows.append((f"{name} failures", kinds, f"{evaluation.num_failed} episodes failed twice and are not scored"))
    return rows


def _fix(status: str, share: float, agent: "AgentConfig") -> str:
    """Return a note on the budget to raise, if many episodes ran out of it."""
    keys = {"out_of_tokens": "max_tokens", "out_of_steps": "max_steps", "out_of_time": "work_s"}
    if share < MANY or status not in keys:
        return ""
    return f": raise agent.{keys[status]} = {getattr(agent, keys[status]):,}"


def _as_json(evaluations: "list[Evaluation]", run: "RunDirectory", seconds: float) -> str:
    import msgspec

    from lzero.rollout.failures import kinds_in

    greedy, failures = evaluations[0], kinds_in(evaluation.metrics for evaluation in evaluations)
    line: dict[str, object] = {
        "score": greedy.score,
        "score_interval": (greedy.metrics["score_low"], greedy.metrics["score_high"]),
        "score_by_hops": greedy.score_by_hops,
        "num_tasks": greedy.num_tasks,
        "num_failed": sum(evaluation.num_failed for evaluation in evaluations),
        "failures": {kind: count for kind, count in failures.items() if count},
    }
    for evaluation in evaluations[1:]:
        line |= {"sampled_score": evaluation.score, "pass_at_k": evaluation.pass_at_k}
    line |= {"seconds": round(seconds, 3), "run_dir": str(run.path)}
    return msgspec.json.encode(line).decode()
