"""`lzero check`: what passes, what fails, and by which words and exit codes."""

import json
from pathlib import Path

import pytest
from builders import make_task, save_tiny
from commands import exit_code

from lzero.config import RewardConfig
from lzero.models import build_tokenizer
from lzero.rewards import make_reward
from lzero.rollout.scoring import Scorer
from lzero.train.preflight.rewards import ODD, form_problems, function_problems, odd_problems, score_problems
from lzero.types import Episode, Reward, Task

pytestmark = pytest.mark.integration
TASK = make_task("t1", answers=("Kato", "北京"))


def write(path: Path, *questions: str) -> str:
    path.write_text("".join(json.dumps({"question": text, "answer": "Kato"}) + "\n" for text in questions), "utf-8")
    return str(path)


def run(*arguments: str) -> int:
    return exit_code("check", *arguments)


def test_the_world_passes(capsys: pytest.CaptureFixture[str]) -> None:
    assert run() == 0
    assert "300 of endless" in capsys.readouterr().out


def test_files_and_a_corpus_pass(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "600")  # a long path folds the line
    (tmp_path / "corpus.jsonl").write_text('{"title": "Liri", "text": "rival Kato"}\n', "utf-8")
    train, held_out = write(tmp_path / "a.jsonl", "One?", "Two?"), write(tmp_path / "b.jsonl", "Three?")
    assert (
        run(f"tasks.train={train}", f"tasks.eval={held_out}", f"environment.options.corpus={tmp_path / 'corpus.jsonl'}")
        == 0
    )
    assert "1 passage" in " ".join(capsys.readouterr().out.split())


def test_a_long_path_is_shown_whole(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write(tmp_path / f"{'a' * 100}.jsonl", "One?")
    assert run(f"tasks.train={file}") == 0
    assert capsys.readouterr().out.count("a") >= 100


def test_a_leak_fails_and_names_both_tasks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train, held_out = write(tmp_path / "a.jsonl", "One?", "Two?"), write(tmp_path / "b.jsonl", "TWO")
    assert run(f"tasks.train={train}", f"tasks.eval={held_out}") == 1
    assert "eval: b-1: the question of train's a-2; take it out of one of them" in capsys.readouterr().err


def test_many_problems_are_cut_to_a_few_and_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write(tmp_path / "a.jsonl", *(f"{index}?" for index in range(15)))
    assert run(f"tasks.train={file}", f"tasks.eval={file}") == 1
    assert "… and 5 more" in capsys.readouterr().err


@pytest.mark.parametrize("key", ["tasks.train", "tasks.eval", "environment.options.corpus"])
def test_a_bad_row_fails_with_its_place(key: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "bad.jsonl").write_text('{"question": "Who?", "answers": [], "text": ""}\n', "utf-8")
    assert run(f"{key}={tmp_path / 'bad.jsonl'}") == 1
    assert "bad.jsonl: field " in capsys.readouterr().err


async def test_every_gold_answer_is_scored_and_the_empty_one() -> None:
    assert await score_problems(TASK, Scorer(make_reward(RewardConfig()))) == []

    def upside_down(task: Task, episode: Episode) -> Reward:
        return Reward(score=0.5 if episode.answer in ("北京", "") else 1.0, per_step=(0.0,), parts={})

    assert await score_problems(TASK, Scorer(upside_down)) == [
        "t1: the gold answer '北京' scores 0.5, not 1",
        "t1: an empty answer scores 0.5, not 0",
    ]


async def test_a_reward_function_is_tried_on_two_episodes_and_may_pay_less_than_1() -> None:
    asked: list[str | None] = []

    def short(task: Task, episode: Episode) -> float:
        asked.append(episode.answer)
        return 0.9 if episode.answer else 0.0

    def constant(task: Task, episode: Episode) -> float:
        return 0.5

    def fails(task: Task, episode: Episode) -> float:
        return float("Kato")

    assert await function_problems([TASK], Scorer(short)) == []
    assert asked == ["Kato", ""]
    assert await function_problems([TASK], Scorer(constant)) == [
        "t1: the gold answer 'Kato' scores 0.5, and an empty answer 0.5"
    ]
    (problem,) = await function_problems([TASK], Scorer(fails))
    assert "could not convert string to float" in problem


async def test_a_reward_function_that_fails_on_odd_answers_is_a_problem() -> None:
    def number(task: Task, episode: Episode) -> float:
        return float(float(episode.answer or 0) == 7)

    def careful(task: Task, episode: Episode) -> float:
        return float(episode.answer == "Kato")

    assert await odd_problems(TASK, Scorer(careful)) == []
    problems = await odd_problems(TASK, Scorer(number))
    assert "could not convert string to float: '['" in problems[0]
    assert "so an agent can submit '[' to be left out instead of scored: return 0 for it" in problems[0]
    assert len(problems) == len(ODD) - 2, "nan and 1e999 are numbers"


def test_a_gold_answer_of_which_the_rule_leaves_nothing_is_a_problem() -> None:
    assert form_problems(TASK, RewardConfig()) == []
    (problem,) = form_problems(TASK, RewardConfig(match="ascii"))
    assert problem.startswith("t1: reward.match = \"ascii\" deletes the whole gold answer '北京'")


def test_a_gold_number_whose_plain_spelling_scores_0_is_a_problem() -> None:
    task = Task(id="t1", question="How many?", answers=("5.0", "1,000", "Kato 7"))
    assert form_problems(task, RewardConfig()) == []
    (problem,) = form_problems(task, RewardConfig(numbers="text"))
    assert problem.startswith("t1: the gold answer '5.0' is '5', and that spelling scores 0")


def test_help_shows_an_example(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--help") == 0
    assert "Example: lzero check" in capsys.readouterr().out


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    return save_tiny(tmp_path / "model")


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        ("template", "the chat template fails: ZeroDivisionError"),
        ("window", "look back 100 tokens only (a sliding window, or chunks)"),
        ("weights", "has no weights: model.safetensors is missing"),
        ("tokenizer", "the tokenizer has ids to"),
    ],
)
def test_a_model_that_would_end_a_run_is_found(
    damage: str, problem: str, saved: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = json.loads((saved / "config.json").read_text())
    if damage == "template":
        (saved / "chat_template.jinja").write_text("{{ 1 // 0 }}")
    elif damage == "window":
        config |= {"layer_types": ["sliding_attention"], "sliding_window": 100, "use_sliding_window": True}
        (saved / "config.json").write_text(json.dumps(config))
    elif damage == "weights":
        (saved / "model.safetensors").unlink()
    else:
        build_tokenizer(["more", "words"]).save_pretrained(saved)
    assert run(f"model.path={saved}", "rollout.concurrency=2") == 1
    errors = capsys.readouterr().err
    assert problem in errors
    assert errors.count("\n") == 1, errors


def test_budgets_that_the_longest_prompt_exceeds_are_found(
    saved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write(tmp_path / "a.jsonl", "Who?", "Who " * 200 + "?")
    assert run(f"model.path={saved}", f"tasks.eval={file}", "agent.max_tokens=600", "rollout.concurrency=2") == 1
    error = capsys.readouterr().err
    assert "eval: a-2: its first prompt has 8" in error
    assert "exceed agent.max_tokens = 600: set it to 1,0" in error
    assert run(f"model.path={saved}", f"tasks.eval={file}", "rollout.concurrency=2") == 0


def test_settings_tools_and_abilities_are_checked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.jsonl").write_text('{"question": "One?", "answer": "1", "ability": "maths"}\n', "utf-8")
    settings = ("agent.prompt=full", "agent.max_tokens=4000", 'agent.tools=["no_module:tool"]', "train.minibatches=2")
    assert run(f"tasks.eval={tmp_path / 'a.jsonl'}", "rollout.concurrency=2", *settings) == 1
    errors = capsys.readouterr().err
    for problem in (
        "maths",
        "cannot import 'no_module'",
        "train.minibatches = 2",
    ):
        assert problem in errors
