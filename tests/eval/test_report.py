"""`lzero report`: an HTML page of hostile texts, Markdown, lm-eval's JSON, and what cannot be reported."""

import json
import statistics
from html.parser import HTMLParser
from pathlib import Path

import msgspec
import pytest
from builders import make_attempt, make_record, make_run, make_task
from commands import exit_code, succeed
from hypothesis import given
from hypothesis import strategies as st

from lzero.eval.report.content import Report, read_report
from lzero.eval.report.lm_eval import render_lm_eval
from lzero.eval.report.markdown import escaped, render_markdown
from lzero.eval.report.page import render_page
from lzero.eval.report.published import DATASETS, PAPERS, dataset_of
from lzero.eval.report.sections import Section, sections
from lzero.store import RunDirectory
from lzero.types import Error, Execution, Failure, Parsed, Stream, ToolCall

EVIL = """</pre></title></style><script>alert(1)</script><img src=x onerror=alert(1)>'"><a href="javascript:x">{{ 7*7 }} | `a`
[l](http://evil) ![i](http://evil) \u202eback\u2066 <!-- \x1b]0;t\x07"""
TAGS = {
    "html",
    "head",
    "meta",
    "title",
    "style",
    "body",
    "main",
    "section",
    "h1",
    "h2",
    "h3",
    "p",
    "div",
    "span",
    "i",
} | {*("table", "thead", "tbody", "tr", "th", "td", "details", "summary", "dl", "dt", "dd", "pre", "footer")}
ATTRIBUTES = {"lang", "charset", "name", "content", "http-equiv", "class", "style", "title"}


class Markup(HTMLParser):
    """Collects the elements and attributes of a page, and its text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: set[str] = set()
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes |= {name for name, _ in attrs}

    def handle_data(self, data: str) -> None:
        self.text += data


def write_run(directory: Path, *answers: str | None, text: str = "Who?", source: str = "hotpotqa") -> RunDirectory:
    """Return a run with a greedy evaluation of a task for each answer: "yes" is right, None failed.

    `text` is wherever a stranger or an agent can write.
    """
    run = make_run(directory)
    outputs = (Stream(name="stdout", text=text), Error(ename=text, evalue=text, traceback=(text,)))
    records = []
    for position, answer in enumerate(answers):
        fields = {"source": source, "hops": position % 2 + 1, "ability": ("qa", "search")[position % 2]}
        task = make_task(f"task-{position}", question=f"{position} {text}", answers=("yes", text), **fields)
        failure = Failure(kind="tool", what=text, where=text) if answer is None else None
        episode = make_attempt(task, answer, failure=failure)
        step = msgspec.structs.replace(
            episode.steps[0],
            parsed=Parsed(think=text, code=text, well_formed=True, problem=text),
            execution=Execution(outputs=outputs, status="error", duration_s=0.1),
            tool_calls=(ToolCall(name=text, arguments={text: text}, duration_s=0.1, result=text),),
        )
        records.append(make_record(msgspec.structs.replace(episode, steps=(step,)), task=task))
    run.write_records(records, phase="eval", update=0)
    run.append_metrics({"score": 0.5, "failures/tool": 2.0, "failures/engine": 0.0}, phase="eval", update=0)
    return run


def report_of(*runs: RunDirectory) -> Report:
    return read_report([run.path for run in runs], updates=[None] * len(runs))


def section(report: Report, key: str) -> Section:
    return next(each for each in sections(report) if each.key == key)


@pytest.fixture
def hostile(tmp_path: Path) -> Report:
    one = write_run(tmp_path / "one", "yes", EVIL, None, "no", text=EVIL)
    return report_of(one, write_run(tmp_path / "other", "yes", "yes", "yes", EVIL, text=EVIL))


def test_a_page_of_hostile_texts_has_the_elements_of_a_harmless_one(tmp_path: Path, hostile: Report) -> None:
    page = render_page(hostile, title=EVIL, version="1")
    markup = Markup(page)
    one = write_run(tmp_path / "tame", "yes", "w", None, "no", text="Who?")
    tame = report_of(one, write_run(tmp_path / "other-tame", "yes", "yes", "yes", "w", text="Who?"))
    assert markup.tags == Markup(render_page(tame, title="Tame", version="1")).tags
    assert set(markup.tags) <= TAGS
    assert markup.attributes <= ATTRIBUTES
    assert "<script>alert(1)</script>" in markup.text
    assert not {*"\u202e\u2066\x1b"} & {*page}
    assert "default-src 'none'" in page
    assert "{{ 7*7 }}" in markup.text


def test_a_report_has_scores_with_intervals_failures_apart_flips_and_examples(hostile: Report) -> None:
    one, other = hostile.evaluations
    assert (one.label, one.score, one.num_failed, one.attempts_failed) == ("A", 1 / 3, 1, {"tool": 2})
    assert (other.score, other.num_failed) == (0.75, 0)
    assert section(hostile, "scores").tables[0].rows[0][:2] == ("core score", "0.333 (0.000 to 1.000)")
    endings = {row[0]: row[1:] for row in section(hostile, "endings").tables[0].rows}
    assert (endings["right"], endings["wrong"], endings["failed, tool"]) == (("1", "3"), ("2", "1"), ("1", "0"))
    assert [row[-2:] for row in section(hostile, "differences").tables[0].rows] == [("0", "1")]
    (flip,) = section(hostile, "flips").tables[0].rows
    assert flip[0].startswith("1 </pre>")
    assert flip[2].startswith("✗ </pre>")
    assert flip[3] == "✓ yes"
    assert [example.kind for example in one.examples] == ["right", "wrong", "failed", "wrong"]


def test_published_figures_are_marked_and_stand_below_those_measured_here(hostile: Report) -> None:
    found = section(hostile, "published")
    assert "not measured here" in found.title
    rows = found.tables[0].rows
    assert [row[0] for row in rows[:3]] == ["A, measured here", "B, measured here", "L0"]
    assert rows[0][3 + DATASETS.index("HotpotQA")] == "33.3"
    assert all(paper.source in found.text for paper in PAPERS)
    assert {dataset_of(name) for name in ("hotpotqa", "NQ", "2wikimultihopqa", "world")} == {
        "HotpotQA",
        "NQ",
        "2Wiki",
        None,
    }


@given(st.text(max_size=40))
def test_a_cell_of_markdown_stays_one_cell_and_begins_nothing(text: str) -> None:
    line = escaped(text)
    assert "\n" not in line
    unescaped = line.replace("\\\\", "")
    assert all(unescaped.replace(f"\\{mark}", "").count(mark) == 0 for mark in "|`<*[]")


def test_markdown_has_the_tables_of_the_page(hostile: Report) -> None:
    text = render_markdown(hostile, title=EVIL, version="1")
    lines = [line for line in text.splitlines() if line.startswith("|")]
    heads = sum(len(each.tables) for each in sections(hostile))
    assert sum(set(line) <= {*"|-: "} for line in lines) == heads
    assert "<script" not in text


def test_json_in_lm_evals_form_holds_one_policy_version(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = write_run(tmp_path / "run", "yes")
    run.write_records([make_record("no")], phase="eval", update=3)
    out = tmp_path / "a.json"
    assert exit_code("report", str(run.path), str(run.path), "--update=0", "--update=3", f"--out={out}") == 1
    assert f"report {run.path} --update 0 alone" in capsys.readouterr().err
    assert not out.exists()


def test_a_source_named_like_the_tasks_has_an_entry_of_its_own(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    tasks = [make_task(source, answers=("yes",), source=source) for source in ("world", "nq")]
    run.write_records([make_record("yes", task=task) for task in tasks], phase="eval", update=0)
    run.append_metrics({"score": 1.0}, phase="eval", update=0)
    results = json.loads(render_lm_eval(report_of(run), title="", version="1"))["results"]
    assert {name: part["alias"] for name, part in results.items()} == {
        "world": "world",
        "world_world": " - world",
        "nq": " - nq",
    }


def test_the_command_writes_pages_and_json_in_lm_evals_form(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = write_run(tmp_path / "run", "yes", "no", None, "no").path
    files = [tmp_path / f"report.{ending}" for ending in ("html", "md", "json")]
    succeed("report", str(run), *(f"--out={file}" for file in files), "--title", "Mine")
    assert "<h1>Mine</h1>" in files[0].read_text("utf-8")
    assert files[1].read_text("utf-8").startswith("# Mine\n")
    found = json.loads(files[2].read_bytes())
    results = found["results"]["world"]
    assert results["exact_match,none"] == pytest.approx(1 / 3)
    assert results["exact_match_stderr,none"] == pytest.approx(statistics.stdev([1, 0, 0]) / 3**0.5)
    assert found["n-samples"] == {"world": {"original": 4, "effective": 3}}
    capsys.readouterr()
    succeed("report", str(run))
    assert capsys.readouterr().out.startswith("# Evaluation report")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("run", "--out", "r.pdf"), "--out r.pdf: name a file that ends in .html, .md, .json"),
        (("run", "--out", "there.md"), "--out there.md exists: name a new file"),
        (("run", "--out", "no/r.md"), "--out no/r.md: there is no directory no"),
        (
            ("run", "other", "--out", "r.json"),
            "JSON in lm-eval's form holds the results of one model: report run --update 0 alone",
        ),
        (("run", "--update", "3"), "run holds no evaluation of policy version 3; there are those of 0"),
        (("run", "--update", "0", "--update", "1"), "--update is given 2 times for 1 runs"),
        (("empty",), "empty holds no evaluation: make one with lzero eval"),
        (("begun",), "begun holds no evaluation that is complete: lzero eval --resume begun"),
        (("failed",), "no episode of its greedy evaluation has a score; lzero eval --resume failed"),
        (("nowhere",), "nowhere is not a run directory"),
    ],
)
def test_what_cannot_be_reported_is_named(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    make_run(Path("empty"))
    for name, answer in (("run", "yes"), ("other", "no"), ("failed", None)):
        write_run(Path(name), answer)
    questions = make_run(Path("begun")).path / "questions"
    questions.mkdir()
    (questions / "eval-000000.jsonl").touch()
    Path("there.md").touch()
    assert exit_code("report", *arguments) == 1
    assert message in capsys.readouterr().err
