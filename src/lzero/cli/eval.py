"""`lzero eval`: score any model, or a scripted policy, on any task source.

lzero eval                                              the bundled nano model on 300 held-out tasks
lzero eval dev.jsonl model.path=./Qwen3-0.6B
lzero eval hotpotqa model.path=./Qwen3-0.6B agent.use=rag             a set that `lzero data download` has fetched
lzero eval engine.kind=chat engine.model=gpt-5-mini tasks.eval=dev.jsonl
lzero eval engine.kind=scripted engine.policy=expert tasks.eval=world/sft eval.num_tasks=2000      (records demonstrations)
lzero eval --resume runs/world-eval-20260131-174501
"""

import asyncio
import sys
import time
from contextlib import AsyncExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lzero.cli.arguments import log_visibly, read_config, resumed, say
from lzero.cli.interruption import Interruption
from lzero.errors import ConfigError

if TYPE_CHECKING:
    from rich.console import Console

    from lzero.config import AgentConfig, Config
    from lzero.eval.evaluate import Evaluation
    from lzero.store import RunDirectory

MANY = 0.5
"""Share of episodes or steps that ran out of a budget above which the summary names its key."""


def evaluate(
    arguments: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[SUITE] [CONFIG.toml] [SECTION.KEY=VALUE]...",
            help="What to evaluate on: a downloaded set by its name, the built-in world, a file or directory of tasks. Then a "
            "configuration file, then changes to it. By default: the bundled nano model on the built-in world.",
            show_default=False,
        ),
    ] = None,
    resume: Annotated[
        Path | None,
        typer.Option(help="Resume the evaluation in this directory: questions that are missing or failed run."),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="End with one line of JSON.")] = False,
    accept_changes: Annotated[
        bool, typer.Option("--accept-changes", help="Resume though tasks, corpus, prompt or model have changed since.")
    ] = False,
) -> None:
    """Score a model on held-out tasks: the greedy score, by hops, and pass@k when eval.sampled_episodes is set.

    Example: lzero eval engine.kind=scripted engine.policy=expert eval.num_tasks=30

    The episodes are saved in a run directory, from which `lzero sft` can learn. Ctrl-C stops, and --resume continues.
    """
    if accept_changes and not resume:
        raise ConfigError("--accept-changes has an effect with --resume only")
    run, config = (
        resumed(resume, arguments, command="lzero eval") if resume else (None, read_config(arguments, suites=True))
    )
    from rich.console import Console

    from lzero.rollout.deadline import budgets_line

    console, interruption = Console(), Interruption()
    log_visibly("%(message)s")
    say(console, f"budgets of an episode: {budgets_line(config)}")
    start = time.monotonic()
    run, evaluations = asyncio.run(_evaluate(config, run, console, interruption, accept=accept_changes))
    seconds = time.monotonic() - start
    if evaluations is None:
        print(f"lzero: stopped; resume with: lzero eval --resume {run.path}", file=sys.stderr)
        raise typer.Exit(interruption.code)
    _show(console, evaluations, run.config)
    say(console, f"{seconds:.1f} s; episodes and metrics: {run.path}")
    if json:
        print(_as_json(evaluations, run, seconds))


async def _evaluate(
    config: "Config", run: "RunDirectory | None", console: "Console", interruption: Interruption, *, accept: bool
) -> "tuple[RunDirectory, list[Evaluation] | None]":
    """Return the run, and its evaluations; None if it was stopped before they were complete."""
    from lzero.agent.compose import opened_scenes
    from lzero.cli.evaluation_display import EvaluationDisplay
    from lzero.data.sources import reading_notes
    from lzero.engine.kinds import kind_of
    from lzero.eval.evaluate import Evaluator, all_recorded, phases_of
    from lzero.rollout.compose import build, eval_tasks
    from lzero.rollout.concurrency import unless
    from lzero.rollout.inputs import compare_inputs, run_inputs
    from lzero.store import RunDirectory, check_new
    from lzero.store.inputs import write_inputs
    from lzero.train.preflight.cluster import check_cluster

    if run is None:
        check_new(config)
    source = eval_tasks(config)
    if complaint := kind_of(config).complaint(config, source.task(0)):
        raise ConfigError(complaint)
    notes = [f"tasks.eval: {config.tasks.eval}: {unread}"] if (unread := reading_notes(source)) else []
    if config.eval.num_tasks < len(source) < sys.maxsize:
        notes.append(f"the first {config.eval.num_tasks:,} of {len(source):,} tasks: eval.num_tasks sets their number")
    async with AsyncExitStack() as stack:
        if run is not None:
            stack.enter_context(run.claimed())
        if run is None:
            await check_cluster(config, trains=False)
        scenes = await stack.enter_async_context(opened_scenes(config))  # before a large model is loaded
        inputs = run_inputs(config, None, source, scenes.environment)
        if run is not None:
            notes += compare_inputs(run.path, inputs, checkpoint=None, accept=accept)
        for note in notes:
            say(console, note)
        if run is not None and (complete := all_recorded(run, config, source)) is not None:
            say(console, "the evaluation is complete: no question is missing or failed")
            return run, complete
        if run is not None:
            await check_cluster(config, trains=False)
        opened = await stack.enter_async_context(build(config, scenes=scenes))
        await scenes.rehearse(source.task(0))
        if run is None:
            named = config.run.model_copy(update={"name": f"{config.run.name}-eval"})
            run = RunDirectory.create(config.model_copy(update={"run": named}), command="lzero eval")
            stack.enter_context(run.claimed())
        run.keep_changes()
        write_inputs(run.path, inputs)
        stack.enter_context(opened.recorded(run))
        stack.enter_context(run.logged())
        evaluator = Evaluator(runner=opened.runner, source=source, config=config)
        measure = "EM" if config.reward.is_exact_match else "score"
        display = stack.enter_context(
            EvaluationDisplay(console, phases_of(config), num_tasks=evaluator.num_tasks, measure=measure)
        )
        evaluator = replace(evaluator, on_question=display.saw)
        on_stop = partial(display.say, "stopping: questions under way are dropped; Ctrl-C again stops at once")
        stack.enter_context(interruption.watched(on_stop, display.close))
        return run, await unless(interruption.stop, evaluator.record(run))


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
    from lzero.eval.evaluate import PHASES
    from lzero.rollout.failures import kinds_in, listed
    from lzero.text import counted

    agent = config.agent
    name = PHASES[evaluation.phase]
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
