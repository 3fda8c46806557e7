"""The tables of a report, which the HTML page and Markdown share. All cells are plain text, which may come from an agent."""

from collections.abc import Iterator, Sequence

from msgspec import Struct

from lzero.eval.breakdown import Part
from lzero.eval.report.content import Report, Shown
from lzero.eval.report.published import DATASETS, PAPERS, dataset_of
from lzero.rollout.failures import listed
from lzero.text import counted, shortened

FLIPS = 30
"""Questions that a report shows side by side."""
CHARS = 200
"""The most characters of a question or an answer in a table."""
NO = "–"
COSTS = {
    "steps": ("steps", ".2f"),
    "prompt_tokens": ("prompt tokens", ",.0f"),
    "tokens": ("sampled tokens", ",.1f"),
    "tool_calls": ("tool calls", ".2f"),
    "seconds": ("seconds of engine and cells", ",.2f"),
    "usd": ("US dollars", ".5f"),
}
SCORES = {"em": "exact match", "f1": "token F1", "contains": "contains a gold answer", "numeric": "same number"}
PUBLISHED = (
    "Figures that the papers publish, in percent of exact match. They were not measured here, and each paper has its own search engine, "
    "corpus, training questions and number of test questions: they say what is usual, not which system is better."
)


class Table(Struct, frozen=True, kw_only=True):
    """Rows of text below a head. The first `names` columns are text, the others numbers."""

    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    title: str = ""
    names: int = 1


class Section(Struct, frozen=True, kw_only=True):
    """A part of a report. `key`: the part's name in the page's markup."""

    key: str
    title: str
    tables: tuple[Table, ...]
    text: str = ""


def sections(report: Report) -> list[Section]:
    """Return the sections that have something to show, in their order."""
    every = (_runs, _scores, _parts, _costs, _endings, _differences, _flips, _published)
    return [section for make in every for section in make(report.evaluations, report)]


def with_interval(part: Part) -> str:
    """Return `0.412 (0.363 to 0.461)`."""
    low, high = part.interval
    return f"{part.mean:.3f} ({low:.3f} to {high:.3f})"


def _runs(shown: Sequence[Shown], report: Report) -> Iterator[Section]:
    rows = tuple(
        (
            *(each.label, each.run, each.how, each.model, each.config.engine.kind, each.config.agent.use),
            *(each.config.tasks.eval, str(each.update), str(each.num_tasks), str(each.num_episodes)),
        )
        for each in shown
    )
    head = ("", "run", "episodes", "model", "engine", "agent", "tasks", "version", "questions", "episodes run")
    yield Section(key="runs", title="Evaluations", tables=(Table(head=head, rows=rows, names=7),))


def _scores(shown: Sequence[Shown], report: Report) -> Iterator[Section]:
    names = list(dict.fromkeys(name for each in shown for name in each.parts.scores))
    ks = sorted({k for each in shown for k in each.pass_at_k})
    rows = [("core score", *(f"{each.score:.3f} ({_range(each.per_task)})" for each in shown))]
    rows.append(("core score is", *(each.config.reward.score_name for each in shown)))
    rows += [(SCORES.get(name, name), *(_part(each.parts.scores.get(name)) for each in shown)) for name in names]
    rows += [(f"pass@{k}", *(f"{each.pass_at_k[k]:.3f}" if k in each.pass_at_k else NO for each in shown)) for k in ks]
    grades = list(dict.fromkeys(name for each in shown for name in each.parts.simpleqa))
    rows += [
        (f"SimpleQA {name}", *(f"{each.parts.simpleqa[name]:.3f}" if each.parts.simpleqa else NO for each in shown))
        for name in grades
    ]
    text = "Mean over the episodes that did not fail. In brackets: the 95 % interval over questions."
    table = Table(head=("score", *(each.label for each in shown)), rows=tuple(rows))
    yield Section(key="scores", title="Scores", text=text, tables=(table,))


def _parts(shown: Sequence[Shown], report: Report) -> Iterator[Section]:
    tables = []
    for name in dict.fromkeys(name for each in shown for name in each.parts.by):
        values = dict.fromkeys(value for each in shown for value in each.parts.by.get(name, {}))
        rows = tuple(
            (value, *(_part(each.parts.by.get(name, {}).get(value), count=True) for each in shown)) for value in values
        )
        tables.append(Table(head=(name, *(each.label for each in shown)), rows=rows))
    if tables:
        text = "In brackets: the 95 % interval. After the comma: the number of questions that were scored."
        yield Section(key="parts", title="Core score by kind of question", text=text, tables=tuple(tables))


def _costs(shown: Sequence[Shown], report: Report) -> Iterator[Section]:
    rows = tuple(
        (words, *(format(each.parts.costs[name], form) if name in each.parts.costs else NO for each in shown))
        for name, (words, form) in COSTS.items()
        if any(name in each.parts.costs for each in shown)
    )
    table = Table(head=("mean of an episode", *(each.label for each in shown)), rows=rows)
    yield Section(key="costs", title="Costs of a question", tables=(table,))


def _endings(shown: Sequence[Shown], report: Report) -> Iterator[Section]:
    every = sorted({ending for each in shown for ending in each.parts.endings}, key=_order)
    rows = [(ending.replace("_", " "), *(str(each.parts.endings.get(ending, 0)) for each in shown)) for ending in every]
    rows.append(("failed attempts, retried ones too", *(listed(each.attempts_failed) or "none" for each in shown)))
    text = (
        "A failure is caused by lzero or what surrounds it, not by the agent: it has no score, and is no wrong answer."
    )
    table = Table(head=("ending of an episode", *(each.label for each in shown)), rows=tuple(rows))
    yield Section(key="endings", title="Answers and failures", text=text, tables=(table,))


def _differences(shown: Sequence[Shown], report: Report) -> Iterator[Section]:
    rows = tuple(
        (
            f"{report.compared[0]} → {label}",
            *(f"{found.before:.3f}", f"{found.after:.3f}", f"{found.difference:+.3f}"),
            *(f"{found.low:+.3f} to {found.high:+.3f}", f"{found.p_value:.2g}", str(found.num_tasks)),
            *(
                str(sum(flip.difference < 0 for flip in found.flips)),
                str(sum(flip.difference > 0 for flip in found.flips)),
            ),
        )
        for label, found in zip(report.compared[1:], report.comparisons, strict=True)
    )
    if rows:
        head = ("", "before", "after", "difference", "95 % interval", "p (sign test)", "questions", "lost", "gained")
        text = "Paired by question: only questions that both evaluations have scored count."
        yield Section(key="differences", title="Differences", text=text, tables=(Table(head=head, rows=rows),))


def _flips(shown: Sequence[Shown], report: Report) -> Iterator[Section]:
    if not report.flips:
        return
    head = ("question", "gold", *report.compared)
    rows = tuple(
        (
            shortened(flip.question, CHARS),
            shortened(" | ".join(flip.gold), CHARS),
            *(
                "not scored"
                if own is None
                else f"{_mark(own.score)} {shortened('no answer' if own.answer is None else own.answer, CHARS)}"
                for own in flip.scores
            ),
        )
        for flip in report.flips[:FLIPS]
    )
    more = f"; {len(report.flips) - FLIPS} more are not shown" if len(report.flips) > FLIPS else ""
    text = f"{counted(len(report.flips), 'question')} scored differently{more}. ✓ right, ✗ wrong, else the mean score."
    yield Section(
        key="flips", title="Questions that flipped", text=text, tables=(Table(head=head, rows=rows, names=len(head)),)
    )


def _published(shown: Sequence[Shown], report: Report) -> Iterator[Section]:
    head = ("", "model", "method", *DATASETS)
    measured = []
    for each in shown:
        own = {dataset_of(source): part for source, part in each.sources.items() if dataset_of(source)}
        if own and each.config.reward.is_exact_match:
            cells = (f"{100 * own[name].mean:.1f}" if name in own else NO for name in DATASETS)
            measured.append((f"{each.label}, measured here", each.model, each.how, *cells))
    rows = tuple(
        (paper.name, row.model, row.method, *(f"{row.em[name]:.1f}" if name in row.em else NO for name in DATASETS))
        for paper in PAPERS
        for row in paper.rows
    )
    sources = " ".join(f"{paper.name}: {paper.source} ({paper.setting})." for paper in PAPERS)
    table = Table(head=head, rows=(*measured, *rows), names=3)
    yield Section(key="published", title="Published, not measured here", text=f"{PUBLISHED} {sources}", tables=(table,))


def _order(ending: str) -> tuple[int, str]:
    firsts = ("right", "partly right", "wrong", "no answer", "failed")
    return next(number for number, first in enumerate(firsts) if ending.startswith(first)), ending


def _range(part: Part) -> str:
    low, high = part.interval
    return f"{low:.3f} to {high:.3f}"


def _part(part: Part | None, *, count: bool = False) -> str:
    if part is None:
        return NO
    return with_interval(part) + (f", {part.num_tasks}" if count else "")


def _mark(score: float) -> str:
    return {1.0: "✓", 0.0: "✗"}.get(score, f"{score:.2f}")
