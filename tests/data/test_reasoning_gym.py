"""Puzzles of reasoning-gym: each generator serves tasks and scores answers, whatever an agent submits."""

import ast
import importlib
import random
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("reasoning_gym", reason="pip install 'lzero[reasoning-gym]'")

from builders import make_attempt
from reasoning_gym.factory import DATASETS

from lzero.config import TasksConfig, load_config
from lzero.data.reasoning_gym import EVALUATED, PARSED, REFUSED, Generator, is_harmless, is_held_out, score
from lzero.data.sources import open_source
from lzero.errors import ConfigError, DataError, RewardError
from lzero.rewards import BUILT_IN
from lzero.rollout.compose import open_reward
from lzero.train.preflight.rewards import ODD, check_rewards
from lzero.train.preflight.subject import Subject
from lzero.types import Task

SEVERAL_ANSWERS = {"boxnet", "graph_color", "propositional_logic", "rubiks_cube", "rush_hour"}
SLOW = {
    *("acre", "arc_agi", "countdown", "figlet_font", "futoshiki", "group_anagrams", "intermediate_integration"),
    *("knight_swap", "puzzle24", "sudoku", "word_ladder", "zebra_puzzles"),
}
"""Generators that take a second and more of a processor."""
GENERATORS = sorted({*DATASETS} - {*REFUSED})
SAMPLE = random.Random(7).sample([name for name in GENERATORS if name not in {*SLOW, *PARSED}], 8)
"""Generators whose scorers `make test` gives odd answers, each of which takes a fork of this process, with all of torch."""
EVALUATE = ("eval", "exec", "parse_expr", "sympify")
SMALL: dict[str, Any] = {"min_digits": 1, "max_digits": 1, "max_terms": 3}


def source(spec: str = "reasoning_gym:chain_sum", *, split: str = "train", seed: int = 3, **options: Any) -> Any:
    return open_source(spec, split=split, seed=seed, config=TasksConfig(train=spec, options=options))


def scored(task: Task, answer: str | None) -> float:
    return score(task, make_attempt(task, answer))


def slow_unless(quick: Callable[[str], bool]) -> list[Any]:
    return [pytest.param(name, marks=[pytest.mark.slow] * (not quick(name))) for name in GENERATORS]


@pytest.mark.parametrize("name", slow_unless(lambda name: name not in SLOW))
def test_each_generator_pays_its_gold_answer_alone(name: str) -> None:
    generator = Generator(name, {})
    entry = generator.entry(7)
    assert entry["question"]
    assert (entry["answer"] is None) == (name in SEVERAL_ANSWERS)
    assert Generator(name, {}).entry(7)["question"] == entry["question"], "the reward makes it again"
    if entry["answer"] is not None:
        assert generator.score(str(entry["answer"]), entry) == 1.0
    assert generator.score(" ", entry) == generator.score("nan", entry) == 0.0


@pytest.mark.parametrize("name", slow_unless(SAMPLE.__contains__))
def test_each_generator_survives_odd_answers(name: str) -> None:
    generator = Generator(name, {})
    entry = generator.entry(7)
    assert all(0.0 <= generator.score(odd, entry) <= 1.0 for odd in ODD)


def test_a_generator_that_cannot_serve_is_refused_with_the_reason() -> None:
    for name, why in REFUSED.items():
        with pytest.raises(ConfigError, match=why[:20]):
            source(f"reasoning_gym:{name}")


def called(call: ast.Call) -> str:
    return getattr(call.func, "attr", getattr(call.func, "id", ""))


def test_the_scorers_that_evaluate_answers_are_known() -> None:
    found = set()
    for name, (dataset, _) in DATASETS.items():
        file = importlib.import_module(dataset.__module__).__file__
        assert file
        for node in ast.walk(ast.parse(Path(file).read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef) and node.name == "score_answer" and name != "composite":
                calls = (each for each in ast.walk(node) if isinstance(each, ast.Call) and each.args)
                if any(called(each) in EVALUATE and ast.unparse(each.args[0]) == "answer" for each in calls):
                    found.add(name)
    assert found == {*EVALUATED, *PARSED}


@pytest.mark.parametrize("generator", [*EVALUATED, *PARSED])
@pytest.mark.parametrize(
    "answer", ["__import__('os').system('id')", "open(0)", "[x for x in self]", "().__class__", "f(1)"]
)
def test_no_scorer_evaluates_code_of_an_agent(generator: str, answer: str) -> None:
    assert not is_harmless(answer, generator=generator)


def test_formulas_and_lists_are_harmless() -> None:
    for answer in ("[[1, 0], [-1, 'Q']]", "1 2 3", "_ Q\nQ _"):
        assert is_harmless(answer, generator="n_queens")
    for answer in ("(3 + 5)*-2/7", "x**3/3 + exp(2*x)*sin(x) + C"):
        assert is_harmless(answer, generator="simple_integration")
    assert not is_harmless("7!!", generator="countdown")
    assert is_harmless("exec(x)", generator="chain_sum"), "its scorer evaluates nothing"


def test_an_answer_that_takes_for_ever_scores_nothing(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("lzero.apart.SCORER_S", 0.3)
    generator = Generator("polynomial_multiplication", {})
    assert generator.score("9**9**9**9", generator.entry(1)) == 0.0
    assert "the scorer of reasoning_gym:polynomial_multiplication raised" in caplog.text


@pytest.mark.parametrize(
    ("name", "answer"),
    [("coin_flip", "1e999999999"), ("rush_hour", "B+99999999999"), ("rubiks_cube", "R99999999999")],
)
def test_an_answer_that_repeats_or_raises_without_end_holds_up_nobody(
    name: str, answer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lzero.apart.SCORER_S", 0.3)
    generator = Generator(name, {})
    assert generator.score(answer, generator.entry(1)) <= 0.05


def test_numbers_that_are_not_given_pay_nothing() -> None:
    countdown, puzzle = (Generator(name, {}) for name in ("countdown", "puzzle24"))
    game = {"answer": "none", "metadata": {"numbers": [3, 4], "target": 7}}
    assert countdown.score("4 + 3", game) == 1.0
    hidden = ("0x7 + 0x0*(3+4)", "(3+4)*sin(pi)" + "-cos(pi)" * 7, "3 + 4 + 1e0 - 1e0", "3 + 4 + 0*x")
    assert [countdown.score(answer, game) for answer in hidden] == [0.0] * len(hidden)
    four = {"answer": "none", "metadata": {"numbers": [6, 6, 6, 6]}}
    assert puzzle.score("6 + 6 + (6 + 6)", four) == 1.0
    assert puzzle.score("6 * 4 * 1 * 1", four) == 0.0


def test_a_scorer_that_pays_every_answer_is_not_asked() -> None:
    game = Generator("game_of_life_halting", {})
    entries = [game.entry(number) for number in range(8)]
    assert {entry["answer"] for entry in entries} == {"True", "False"}
    assert all(game.score(entry["answer"], entry) == 1.0 for entry in entries)
    assert not any(game.score(answer, entry) for entry in entries for answer in ("x", str(entry["answer"] != "True")))


def test_the_first_digits_of_a_number_pay_nothing() -> None:
    coins = Generator("coin_flip", {})
    entry = {"answer": "0.3125"}
    assert [coins.score(answer, entry) for answer in ("0.3125", "5/16", "0.31251")] == [1.0, 1.0, 1.0]
    assert not any(coins.score(answer, entry) for answer in ("0", "0.3", "0.32", "x", "1/0"))


def test_giving_up_pays_nothing_and_no_task_is_solved_by_it() -> None:
    generator = Generator("ab", {"length": 2})
    blank = next(entry for entry in map(generator.entry, range(500)) if entry["answer"] == "")
    assert generator.score("", blank) == 0.0
    tasks = [source("reasoning_gym:ab", length=2).task(index) for index in range(60)]
    assert all(answer.strip() for task in tasks for answer in task.answers)


def test_a_score_above_one_is_none() -> None:
    calendar = Generator("calendar_arithmetic", {})
    entry = {"answer": "-1", "metadata": {"task": "recurring_event_day"}}
    assert [calendar.score(answer, entry) for answer in ("-1", " -1", "5")] == [1.0, 1.0, 0.0]


def test_what_is_too_deep_to_be_looked_at_is_not_evaluated() -> None:
    assert not is_harmless("[open(0), " + "-" * 100_000 + "1]", generator="string_insertion")
    assert not is_harmless("[open(0), " + "1+" * 20_000 + "1]", generator="string_insertion")


@pytest.mark.filterwarnings("ignore")  # an error instead would end the parser earlier
@pytest.mark.parametrize("name", ["n_queens", "string_insertion", "polynomial_multiplication"])
def test_an_answer_that_breaks_pythons_parser_scores_nothing(name: str) -> None:
    task = source(f"reasoning_gym:{name}").task(0)
    assert scored(task, "(*1or " * 2_000 + "1 1") == 0.0


def test_tasks_follow_from_seed_split_and_index() -> None:
    tasks = [source(**SMALL).task(index) for index in range(20)]
    again = source(**SMALL)
    assert [again.task(index) for index in reversed(range(20))] == tasks[::-1]
    assert source(seed=4, **SMALL).task(0).question != tasks[0].question
    assert len({task.id for task in tasks}) == 20
    assert len(source()) == sys.maxsize
    assert all(scored(task, task.answers[0]) == 1.0 and scored(task, None) == 0.0 for task in tasks)


def test_splits_share_no_question() -> None:
    train, held_out = (
        {source(split=split, **SMALL).task(index).question for index in range(60)} for split in ("train", "eval")
    )
    assert train
    assert not train & held_out
    assert all(map(is_held_out, held_out))


def test_a_mixture_draws_by_weight_and_each_generator_has_its_options() -> None:
    mixed = source("reasoning_gym:mix", weights={"chain_sum": 3, "leg_counting": 1}, settings={"chain_sum": SMALL})
    tasks = [mixed.task(index) for index in range(200)]
    sums = [task for task in tasks if task.source == "reasoning_gym:chain_sum"]
    assert 120 < len(sums) < 180
    assert all(len(number) == 1 for task in sums for number in task.question.split() if number.isdigit())
    assert {scored(task, task.answers[0]) for task in tasks} == {1.0}


def test_partial_credit_is_paid() -> None:
    task = source("reasoning_gym:letter_counting").task(0)
    assert 0.0 < scored(task, f"it is {task.answers[0]}") < 1.0


@pytest.mark.parametrize(
    ("spec", "options", "said"),
    [
        ("chain_sums", {}, 'did you mean "chain_sum"'),
        ("chain_sum", {"digits": 2}, r"unknown key 'tasks.options.digits': .* has the options .*max_digits"),
        ("chain_sum", {"max_digits": "x"}, "tasks.options.max_digits = 'x'"),
        ("chain_sum", {"min_digits": 5, "max_digits": 2}, "rejects them: max_digits must be >= min_digits"),
        ("chain_sum", {"size": 5}, "tasks.options.size: lzero sets it"),
        ("mix", {}, "missing key 'tasks.options.weights'"),
        ("mix", {"weights": {"chain_sum": 0}}, "weights.chain_sum = 0: give a number above 0"),
        ("mix", {"weights": {"gcd": 1}, "settings": {"lcm": {}}}, "settings.lcm has no effect"),
    ],
)
def test_what_cannot_be_used_is_named(spec: str, options: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        source(f"reasoning_gym:{spec}", **options)


def test_too_few_questions_for_a_split_are_an_error() -> None:
    with pytest.raises(DataError, match="let it make more different ones"):
        [source("reasoning_gym:count_bits", split=split, min_n=1, max_n=1).task(0) for split in ("train", "eval")]


def test_another_release_and_another_source_are_told() -> None:
    task = source().task(0)
    with pytest.raises(RewardError, match="another release"):
        scored(Task(id="t", question="1 + 1?", answers=(), metadata=task.metadata), "2")
    with pytest.raises(RewardError, match="tasks of reasoning_gym only"):
        scored(Task(id="t", question="1 + 1?", answers=()), "2")


def test_lzero_check_accepts_tasks_without_a_gold_answer() -> None:
    spec = "reasoning_gym:propositional_logic"
    config = load_config(None, [f"tasks.train={spec}", f"tasks.eval={spec}", "reward.function=reasoning_gym"])
    with Subject(config) as subject:
        lines = list(check_rewards(subject))
    assert [line.name for line in lines] == [f"reward, {split}: reasoning_gym" for split in ("train", "eval")]
    assert not any(line.problems for line in lines)


def test_its_reward_is_one_line() -> None:
    assert open_reward(load_config(None, ["reward.function=reasoning_gym"])) is score
    with pytest.raises(ConfigError, match='did you mean "reasoning_gym"'):
        open_reward(load_config(None, ["reward.function=reasoning_gim"]))
    assert "reasoning_gym" in BUILT_IN
