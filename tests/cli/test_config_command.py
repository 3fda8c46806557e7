"""`lzero config`, as an editor and a person use it."""

import json
import tomllib
from pathlib import Path

import jsonschema
import pytest
from commands import exit_code

from lzero.config import keys, load_config
from lzero.visible import clean

pytestmark = pytest.mark.integration
RECIPES = Path(__file__).parents[2] / "recipes"
FILES = sorted(RECIPES.glob("*.toml"))


def printed(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert exit_code("config", *arguments) == 0
    return capsys.readouterr().out


def test_what_is_printed_is_the_same_configuration(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    options = ["algo.loss=ppo", "algo.loss_options.clip_high=0.3", "train.epochs=2"]
    overrides = [*options, r'agent.question_suffix="a \"b\"\n# \\c"']
    file = tmp_path / "my.toml"
    file.write_text(printed(capsys, str(RECIPES / "world.toml"), *overrides), encoding="utf-8")
    assert load_config(file) == load_config(RECIPES / "world.toml", overrides)


def test_options_that_are_tables_stay_in_their_section(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    overrides = ["algo.estimator=mine.py:Mine", "algo.estimator_options={weights={first=1.0}, scale=2.0}"]
    file = tmp_path / "my.toml"
    file.write_text(printed(capsys, *overrides), encoding="utf-8")
    assert load_config(file) == load_config(None, overrides)


def test_hidden_characters_are_printed_as_escapes(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Who looks at a stranger's configuration sees all of it, and the terminal acts on nothing in it."""
    hidden = "a\u202eb\u200bc\x9bd\u2028e\U000e0001f\u3164g\x85é"
    theirs, mine = tmp_path / "theirs.toml", tmp_path / "mine.toml"
    theirs.write_text(
        f'[agent]\nquestion_suffix = "{hidden}"\n[algo.loss_options]\n"{hidden}" = "{hidden}"\n', encoding="utf-8"
    )
    shown = printed(capsys, str(theirs))
    assert clean(shown) == shown
    assert all(line.isprintable() for line in shown.split("\n"))
    mine.write_text(shown, encoding="utf-8")
    assert load_config(mine) == load_config(theirs)


def test_every_key_has_its_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    lines = printed(capsys).splitlines()
    for number, line in enumerate(lines):
        if " = " in line and not line.startswith("#"):
            assert lines[number - 1].startswith("# "), line
    names = {line.split(" = ")[0].split(".")[-1].rstrip("]") for line in lines if not line.startswith("#")}
    of_another_kind = {key for key in keys() if key.startswith("engine.") and key != "engine.kind"}
    assert {key.split(".")[1] for key in set(keys()) - of_another_kind} <= names


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_recipes_follow_the_schema(capsys: pytest.CaptureFixture[str], file: Path) -> None:
    schema = json.loads(printed(capsys, "--schema"))
    jsonschema.validate(tomllib.loads(file.read_text(encoding="utf-8")), schema)
    with pytest.raises(jsonschema.ValidationError, match="learning_rate"):
        jsonschema.validate({"train": {"learning_rate": 0.1}}, schema)


def test_a_wrong_key_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code("config", "algo.kl_coeff=1") == 1
    assert "did you mean 'algo.kl_coef'?" in capsys.readouterr().err
