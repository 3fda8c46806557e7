"""The configuration: every knob typed, documented and strict."""

import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest
from pydantic import Field

from lzero.config import Config, Section, keys, load_config
from lzero.errors import ConfigError


def test_a_file_changes_defaults_and_overrides_change_the_file(tmp_path: Path) -> None:
    file = tmp_path / "recipe.toml"
    file.write_text("[algo]\nkl_coef = 0.5\nentropy_coef = 0.1\nloss_options = {clip_low = 0.1}\n", encoding="utf-8")
    overrides = ["algo.kl_coef=0.01", "model.path=/some/where", "tasks.hops=[1, 2]", "algo.loss_options.clip_high=0.3"]
    config = load_config(file, overrides)
    assert (config.algo.kl_coef, config.algo.entropy_coef) == (0.01, 0.1)
    assert config.algo.loss_options == {"clip_low": 0.1, "clip_high": 0.3}
    assert config.model.path == "/some/where"
    assert config.tasks.hops == (1, 2)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("algo.kl_coeff=1", r"unknown key 'algo.kl_coeff'; did you mean 'algo.kl_coef'\?"),
        ("algo.x=1", r"unknown key 'algo.x'; did you mean '\w+\.\w+'\?"),
        ("engine.kind=script", r'engine.kind = "script": did you mean "scripted"\? It is one of local, chat, scripted'),
        ("aglo.kl_coef=1", r"unknown key 'aglo'; did you mean 'algo'\?"),
        ("rollout.top_p=0.9", "unknown key 'rollout.top_p': training samples from the policy's whole distribution"),
        ("rollout.repetition_penalty=1.1", "would make the recorded log-probabilities"),
        ("agent.min_p=0.05", "would make the recorded log-probabilities"),
        ("rollout.top_up=1", "unknown key 'rollout.top_up'; did you mean"),
        ("eval.top_k=5", "unknown key 'eval.top_k'; did you mean"),
        ("train.lr=-1", "train.lr = -1: .*greater than 0"),
        ("train.lr=fast", "train.lr = 'fast'"),
        ("rollout.drop_uniform=1.5", "rollout.drop_uniform = 1.5"),
        ("rollout.stragglers=1", "rollout.stragglers = 1"),
        ("train.warmup_updates=99", "^train: warmup_updates = 99 must be smaller than updates = 12$"),
        ("tools.proxy=ftp://me:secret@host", "^tools.proxy = 'ftp://…@host': [^V]"),
        ("train.lr", "not of the form section.key=value"),
        ("lr=1", "not of the form section.key=value"),
        ("a..c=1", "not of the form section.key=value"),
        ("train.lr.peak=1", "train.lr = {.peak.: 1}: Input should be a valid number"),
    ],
)
def test_a_wrong_override_is_refused_with_the_reason(override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config(None, [override])


@pytest.mark.parametrize(
    ("table", "key"),
    [("estimator_options", key) for key in ("gamma", "step_weight")]
    + [("loss_options", key) for key in ("ratio", "clip_low", "clip_high", "dual_clip")],
)
def test_a_key_that_was_renamed_is_refused_with_its_new_name(table: str, key: str) -> None:
    with pytest.raises(ConfigError, match=f"^unknown key 'algo.{key}': write 'algo.{table}.{key}', its new name$"):
        load_config(None, [f"algo.{key}=1"])


def test_every_error_of_a_file_is_told_at_once(tmp_path: Path) -> None:
    file = tmp_path / "recipe.toml"
    file.write_text("[algo]\ngama = 1\n[train]\nlr = 0\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"(?s)algo\.gama.*train\.lr|train\.lr.*algo\.gama"):
        load_config(file)


def test_an_override_may_be_a_string_with_many_dots() -> None:
    assert load_config(None, [f'sft.focus="{"w." * 40}"']).sft.focus == "w." * 40


@pytest.mark.parametrize("content", [b"not toml", b"\xff\xfe"])
def test_a_file_that_is_not_toml_is_named(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "broken.toml"
    file.write_bytes(content)
    with pytest.raises(ConfigError, match=r"broken\.toml is not valid TOML"):
        load_config(file)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.toml"):
        load_config(tmp_path / "nowhere.toml")


def test_every_knob_has_its_sentence() -> None:
    for name, section in Config.model_fields.items():
        for kind in get_args(section.annotation) or (section.annotation,):  # [engine] has several
            texts = kind.descriptions()
            assert texts.keys() == kind.model_fields.keys(), name
            for key, text in texts.items():
                assert text.endswith((".", ")")), f"{name}.{key}"


class Own(Section):
    """A section of one's own, whose first key is described by its `Field`."""

    first: int = Field(1, description="A number.")
    second: int = 2
    """Another
    number."""
    third: int = 3


def test_a_key_is_described_by_the_text_below_it_or_by_its_field() -> None:
    assert Own.descriptions() == {"first": "A number.", "second": "Another number."}
    assert Own.model_json_schema()["properties"]["second"]["description"] == "Another number."


def test_every_knob_is_read_somewhere() -> None:
    source = Path(sys.modules["lzero"].__file__ or "").parent
    text = "\n".join(path.read_text(encoding="utf-8") for path in source.rglob("*.py") if path.parent.name != "config")
    unread = [key for key in keys() if f".{key.split('.')[1]}" not in text]
    assert not unread, f"nobody reads {unread}"


def test_a_configuration_loads_without_torch() -> None:
    code = "import sys, lzero.config; lzero.config.load_config(); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


@pytest.mark.parametrize(
    ("override", "told"),
    [("agent.summary_tokens=64", 'memory = "soft" only'), ("agent.notepad_chars=99", "notepad = true only")],
)
def test_a_key_of_the_agent_that_would_not_act_is_refused(override: str, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        load_config(None, [override])


@pytest.mark.parametrize("value", ["inf", "-inf", "nan"])
@pytest.mark.parametrize(
    "key", ["train.lr", "algo.kl_coef", "algo.importance_cap", "rollout.temperature", "rollout.stragglers"]
)
def test_a_number_that_is_not_finite_is_refused(key: str, value: str) -> None:
    with pytest.raises(ConfigError, match=f"{key} = {value}: Input should be"):
        load_config(None, [f"{key}={value}"])


def test_a_single_value_in_place_of_a_list_says_how_a_list_is_written() -> None:
    with pytest.raises(ConfigError, match=r"agent.tools = 'shelf': a list is needed, as agent.tools='\[…, …\]'"):
        load_config(None, ["agent.tools=shelf"])
