"""An evaluation as JSON in the form of lm-evaluation-harness's result files, which leaderboards and plotting tools read."""

import math
import statistics

import msgspec

from lzero.errors import ConfigError
from lzero.eval.breakdown import Part
from lzero.eval.report.content import Report, Shown
from lzero.types import Json

NAMES = {"em": "exact_match", "f1": "f1", "contains": "contains"}
"""Name of a score → its name in lm-eval's files."""


def render_lm_eval(report: Report, *, title: str, version: str) -> str:
    """Return the results of one run, its tasks by source if there are several. Raises ConfigError for more than one run."""
    models = list(dict.fromkeys((each.run, each.update) for each in report.evaluations))
    if len(models) > 1:
        run, update = models[0]
        raise ConfigError(
            f"JSON in lm-eval's form holds the results of one model: report {run} --update {update} alone"
        )
    found: dict[str, Json] = {}
    for each in report.evaluations:
        suffix = "" if each.phase == "eval" else "_sampled"
        whole = each.config.tasks.eval + suffix
        found[whole] = _whole(each)
        for source, part in each.parts.by.get("source", {}).items():
            name = source + suffix
            found[f"{whole}_{source}" if name in found else name] = {
                "alias": f" - {source}",
                **_measure(_core(each), part),
            }
    first = report.evaluations[0]
    result: dict[str, Json] = {
        "results": found,
        "group_subtasks": {},
        "configs": {name: {"task": name, "num_fewshot": 0, "metadata": {"version": 1.0}} for name in found},
        "versions": dict.fromkeys(found, 1.0),
        "n-shot": dict.fromkeys(found, 0),
        "higher_is_better": {name: dict.fromkeys(_metrics(own), True) for name, own in found.items()},
        "n-samples": {
            each.config.tasks.eval + ("" if each.phase == "eval" else "_sampled"): {
                "original": each.num_tasks,
                "effective": len(each.per_task.values),
            }
            for each in report.evaluations
        },
        "config": {
            "model": f"lzero-{first.config.engine.kind}",
            "model_args": first.model,
            "random_seed": first.config.run.seed,
            "bootstrap_iters": 0,
            "gen_kwargs": {"max_steps": first.config.agent.max_steps, "agent": first.config.agent.use},
        },
        "model_name": first.model,
        "lzero_version": version,
        "title": title,
    }
    return msgspec.json.format(msgspec.json.encode(result)).decode() + "\n"


def _whole(shown: Shown) -> dict[str, Json]:
    scores = {NAMES.get(name, name): part for name, part in shown.parts.scores.items()}
    measures = [_measure(name, part) for name, part in scores.items()]
    if _core(shown) not in scores:
        measures.insert(0, _measure(_core(shown), shown.per_task))
    found: dict[str, Json] = {"alias": shown.config.tasks.eval}
    for measure in measures:
        found |= measure
    found |= {f"pass@{k},none": value for k, value in shown.pass_at_k.items()}
    return found | {"num_failed,none": shown.num_failed}


def _core(shown: Shown) -> str:
    """Return the name of the core score."""
    return NAMES["em"] if shown.config.reward.is_exact_match else "score"


def _measure(name: str, part: Part) -> dict[str, Json]:
    low, high = part.interval
    return {
        f"{name},none": part.mean,
        f"{name}_stderr,none": _standard_error(part),
        f"{name}_low,none": low,
        f"{name}_high,none": high,
    }


def _standard_error(part: Part) -> float | str:
    """Return the standard error of the mean over tasks; "N/A" for one task, as lm-eval writes it."""
    number = len(part.values)
    return statistics.stdev(part.values) / math.sqrt(number) if number > 1 else "N/A"


def _metrics(own: Json) -> list[str]:
    assert isinstance(own, dict)
    ends = ("_stderr,none", "_low,none", "_high,none", "num_failed,none")
    return [name.partition(",")[0] for name in own if name != "alias" and not name.endswith(ends)]
