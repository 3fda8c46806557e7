"""Keys: where they come from, and that nothing shows them."""

import copy
import pickle
from pathlib import Path

import pytest

from lzero.errors import ConfigError
from lzero.tools.keys import Secret, find_key, find_variable, need_key, read_env_file

TEXT = """\
# keys of mine
PLAIN=abc123
export EXPORTED=with-export   # a comment

 SPACED = around \t
DOUBLE="a # b" # a comment
SINGLE='$HOME "quoted"'
EMPTY=
COMMENTED= # nothing
HASH=a#b
EQUALS=a=b==
QUOTE=it's
"""


@pytest.fixture(autouse=True)
def _directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MY_KEY", raising=False)


def test_a_file_of_variables_is_read_and_nothing_is_expanded(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text("\ufeff" + TEXT, encoding="utf-8")
    assert read_env_file(file) == {
        "PLAIN": "abc123",
        "EXPORTED": "with-export",
        "SPACED": "around",
        "DOUBLE": "a # b",
        "SINGLE": '$HOME "quoted"',
        "EMPTY": "",
        "COMMENTED": "",
        "HASH": "a#b",
        "EQUALS": "a=b==",
        "QUOTE": "it's",
    }


@pytest.mark.parametrize("line", ["sk-secret", "1X=sk-secret", 'K="sk-secret', "K='sk-secret' more", "=sk-secret"])
def test_a_line_that_is_none_is_named_and_not_shown(tmp_path: Path, line: str) -> None:
    (tmp_path / ".env").write_text(f"OK=1\n{line}\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"\.env, line 2: write NAME=value") as raised:
        find_key("MY_KEY")
    assert "sk-secret" not in str(raised.value)


def test_the_environment_wins_over_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert find_key("MY_KEY") is None
    (tmp_path / ".env").write_text("MY_KEY=from-file", encoding="utf-8")
    (tmp_path / "other").write_text("MY_KEY=from-other", encoding="utf-8")
    assert need_key("MY_KEY", purpose="a test").reveal() == "from-file"
    assert need_key("MY_KEY", purpose="a test", env_file="other").reveal() == "from-other"
    monkeypatch.setenv("MY_KEY", "")
    assert need_key("MY_KEY", purpose="a test").reveal() == "from-file"
    monkeypatch.setenv("MY_KEY", "from-environment")
    assert need_key("MY_KEY", purpose="a test", env_file="other").reveal() == "from-environment"


def test_a_missing_key_or_file_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"Serper needs a key: set MY_KEY in the environment, or in \.env"):
        need_key("MY_KEY", purpose="Serper")
    with pytest.raises(ConfigError, match="cannot read the keys in none: No such file"):
        find_key("MY_KEY", env_file="none")
    monkeypatch.setenv("MY_KEY", "se\ncret")
    with pytest.raises(ConfigError, match="MY_KEY contains characters") as raised:
        find_key("MY_KEY")
    assert "cret" not in str(raised.value)


def test_a_secret_does_not_show() -> None:
    secret = Secret("sk-123")
    assert "123" not in f"{secret} {secret!r} {[secret]} {secret:}"
    assert not hasattr(secret, "__dict__")
    for write in (pickle.dumps, copy.copy):
        with pytest.raises(TypeError, match="not written down"):
            write(secret)


def test_a_variable_of_any_shape_comes_from_the_environment_or_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    Path(".env").write_text("PLACE='/a place/ü'\nEMPTY=\n", encoding="utf-8")
    assert find_variable("PLACE") == "/a place/ü"
    monkeypatch.setenv("PLACE", "/elsewhere")
    assert find_variable("PLACE") == "/elsewhere"
    assert find_variable("EMPTY") is find_variable("NOWHERE") is None
