"""A user's object is found by its import path, and refused with the reason if it cannot be used."""

from pathlib import Path

import pytest

from lzero.agent.compose import open_tools
from lzero.config import Config, load_config
from lzero.errors import ConfigError
from lzero.rollout.compose import open_reward, open_scorer

MINE = """
import functools


class Tool:
    def __init__(self, name):
        self.name, self.parameters, self.description = name, ("text",), "a tool"

    async def call(self, arguments, context):
        return None


good, submits, half, hides = Tool("good"), Tool("submit_final_answer"), object(), Tool("open")
word, twice, mute = Tool("word"), Tool("twice"), Tool("mute")
word.parameters, twice.parameters, mute.description = "text", ("a", "a"), " "


def reward(task, episode):
    return None


def one_argument(task):
    return 1.0


def weighs(task, episode, *, weight: float = 1.0):
    return weight


class Weighs:
    def __call__(self, task, episode, *, weight: float = 1.0):
        return weight


whole, instance = functools.partial(weighs), Weighs()
"""


@pytest.fixture(autouse=True)
def _module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "plugged.py").write_text(MINE, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)


def test_tools_and_a_reward_are_found_by_their_paths() -> None:
    config = load_config(None, ["agent.tools=['plugged:good']", "reward.function=plugged:reward"])
    assert [tool.name for tool in open_tools(config.agent.tools, config, key="agent.tools")] == ["good"]
    assert open_reward(config).__name__ == "reward"


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("plugged", 'agent.tools = "plugged": did you mean'),
        ("web_serch", 'did you mean "web_search"'),
        (":good", "not an import path"),
        ("plugged:nothing", "has no 'nothing'"),
        (
            "no_such_module:good",
            "cannot import 'no_such_module'.*modules are looked for in the working directory, PYTHONPATH",
        ),
        ("plugged:hides", "called 'open', which would hide a name of Python"),
        ("plugged:word", r"parameters 'text': give a tuple of names"),
        ("plugged:twice", "two parameters of the same name: a, a"),
        ("plugged:mute", "has no description"),
        ("plugged:half", "no name, parameters, description, call"),
        ("plugged:submits", "the name 'submit_final_answer', and so has another function"),
        ("plugged:good plugged:good", "the name 'good', and so has another function"),
    ],
)
def test_what_is_no_tool_is_refused(value: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        open_tools(value.split(), Config(), key="agent.tools")


def test_the_keys_of_a_reward_that_is_replaced_are_refused() -> None:
    config = load_config(None, ["reward.function=plugged:reward", "reward.qa=0.5"])
    with pytest.raises(ConfigError, match="have no effect"):
        open_reward(config)


@pytest.mark.parametrize(
    ("name", "message"),
    [("half", "name a function of"), ("one_argument", r"cannot be called with \(task, episode\): too many positional")],
)
def test_a_reward_that_cannot_be_called_is_refused_before_the_run(name: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        open_scorer(load_config(None, [f"reward.function=plugged:{name}"]))


@pytest.mark.parametrize("name", ["weighs", "whole", "instance"])
def test_a_reward_is_anything_that_can_be_called(name: str) -> None:
    open_scorer(load_config(None, [f"reward.function=plugged:{name}", "reward.options.weight=0.5"]))
    with pytest.raises(ConfigError, match=r"reward\.options\.weight"):
        open_scorer(load_config(None, [f"reward.function=plugged:{name}", "reward.options.weight=heavy"]))


@pytest.mark.parametrize(
    "line", ["import this_is_nowhere", "1 / 0", "x = (", "import sys; sys.exit(2)", "None.nothing"]
)
def test_a_module_that_fails_as_it_is_imported_is_a_configuration_error(line: str, tmp_path: Path) -> None:
    name = f"broken_{abs(hash(line))}"
    (tmp_path / f"{name}.py").write_text(f"{line}\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=rf"reward.function: cannot import '{name}'"):
        open_reward(load_config(None, [f"reward.function={name}:reward"]))
