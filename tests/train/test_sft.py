import functools
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from builders import GONE, TINY, make_completion, make_episode, make_run, make_sample, make_step, make_task, save_tiny
from msgspec import structs
from transformers import PreTrainedTokenizerFast

from lzero.agent.renderer import Renderer
from lzero.algo.samples import to_samples
from lzero.config import Config, load_config
from lzero.data.world import vocabulary
from lzero.errors import ConfigError, ModelError, StoreError
from lzero.models import build_tokenizer, load_model, load_tokenizer, new_model
from lzero.store import Record
from lzero.train.demonstrations import Translator, read_demonstrations
from lzero.train.sft import Mix, SftStep, fine_tune, make_optimizers, read_sources, starting_model
from lzero.types import Episode, Prompt, Reward, Sample, Sampling, Step

pytestmark = pytest.mark.integration
BYTES = build_tokenizer()
WORDS = build_tokenizer(["<output>\n", "<code>", "</code>", "Liri", " rival", "Kato", "ing"])
TURNS = [("<code>\nsearch('Liri')</code>", "Liri: rival Kato <|im_end|>"), ("<code>\nsubmit('Kato')</code>", "")]
SAMPLING = Sampling(temperature=0.0)


@functools.cache
def renderer_of(tokenizer: PreTrainedTokenizerFast) -> Renderer:
    """Return one renderer for all episodes: each forks this process, with all of torch, to render its template."""
    return Renderer(tokenizer)


def encode(tokenizer: PreTrainedTokenizerFast, text: str) -> tuple[int, ...]:
    return tuple(tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True))


def episode(
    tokenizer: PreTrainedTokenizerFast, name: str, *, ends_turns: bool = False, system: str | None = None
) -> Episode:
    """Return two steps of a conversation, as an agent with this tokenizer would record them."""
    renderer = renderer_of(tokenizer)
    steps: list[Step] = []
    prompt = Prompt(keep=0, new_ids=renderer.start(system, f"Who? ({name})"))
    length = 0
    for text, output in TURNS:
        ids = encode(tokenizer, text) + ((renderer.end_of_turn,) if ends_turns else ())
        completion = make_completion(ids, text=text, logprobs=(0.0,) * len(ids))
        steps.append(make_step(completion, new_ids=prompt.new_ids, keep=prompt.keep))
        length = prompt.keep + len(prompt.new_ids) + len(ids)
        prompt = Prompt(keep=length, new_ids=renderer.turn(completion, f"<output>\n{output}\n</output>"))
    return make_episode(*steps, name=name, sampling=SAMPLING)


EXPERT = ("engine.kind=scripted", "engine.policy=expert")


def recorded(directory: Path, *engine: str, num_episodes: int = 40) -> Path:
    """Make a run directory of byte-level episodes, one of them failed."""
    run = make_run(directory, *(engine or EXPERT))
    reward = Reward(score=1.0, per_step=(0.0, 1.0), parts={})
    episodes = [episode(BYTES, f"episode/{number}") for number in range(num_episodes)]
    records = [
        Record(
            task=make_task("task"),
            episodes=(*episodes, make_episode(name="broken", failure=GONE)),
            rewards=(*(reward for _ in episodes), None),
        )
    ]
    run.write_records(records, phase="eval", update=0)
    return directory


def config_of(tmp_path: Path, *overrides: str, num_episodes: int = 40) -> Config:
    model, run = tmp_path / "model", tmp_path / "recorded"
    if not model.exists():
        save_tiny(model)
        recorded(run, num_episodes=num_episodes)
    fixed = [f"model.path={model}", f'sft.episodes=["{run}"]', "model.device=cpu", f"run.dir={tmp_path / 'sft'}"]
    return load_config(
        overrides=[*fixed, "sft.tokens=60000", "sft.lr=0.02", "sft.batch_size=4", "run.deterministic=true", *overrides]
    )


@pytest.mark.parametrize("settings", [("sft.optimizer=adamw",), ("sft.optimizer=muon", "sft.embedding_lr=0.01")])
def test_a_model_learns_what_was_recorded(tmp_path: Path, settings: tuple[str, ...]) -> None:
    seen: list[SftStep] = []
    done = fine_tune(config_of(tmp_path, *settings), on_step=seen.append)
    assert done.held_out_before > 5.0
    assert done.held_out_after < 0.1
    assert done.tokens >= 60000
    assert [step.step for step in seen] == list(range(1, done.steps + 1))
    assert load_tokenizer(done.model_dir).get_vocab() == BYTES.get_vocab()
    lines = done.run.read_metrics()
    assert len(lines) == done.steps
    assert lines[-1]["held_out/loss"] == done.held_out_after


def test_the_same_seed_gives_the_same_model(tmp_path: Path) -> None:
    config = config_of(tmp_path, "sft.tokens=5000")
    weights = []
    for number in range(2):
        named = config.run.model_copy(update={"dir": str(tmp_path / f"sft-{number}")})
        done = fine_tune(config.model_copy(update={"run": named}))
        weights.append(load_model(done.model_dir, dtype="float32", device="cpu").state_dict())
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_failed_episodes_are_not_imitated(tmp_path: Path) -> None:
    samples = read_demonstrations(recorded(tmp_path / "run", num_episodes=3), BYTES)
    assert [sample.episode_id for sample in samples] == ["episode/0", "episode/1", "episode/2"]
    assert {sample.temperature for sample in samples} == {1.0}
    assert samples[0].token_ids == to_samples(episode(BYTES, "episode/0"))[0].token_ids


@pytest.mark.parametrize("ends_turns", [False, True])
@pytest.mark.parametrize("system", [None, "You are an agent."])
def test_an_episode_told_in_other_tokens_is_what_that_model_would_have_recorded(
    ends_turns: bool, system: str | None
) -> None:
    told = Translator(BYTES, WORDS).episode(episode(BYTES, "a", ends_turns=ends_turns, system=system))
    expected = episode(WORDS, "a", ends_turns=ends_turns, system=system)
    assert told == expected
    assert told.steps[1].prompt.keep < episode(BYTES, "a", ends_turns=ends_turns, system=system).steps[1].prompt.keep


def test_demonstrations_reach_a_model_with_another_tokenizer(tmp_path: Path) -> None:
    (sample,) = read_demonstrations(recorded(tmp_path / "run", num_episodes=1), WORDS)
    assert sample.token_ids == to_samples(episode(WORDS, "episode/0"))[0].token_ids
    assert WORDS.decode([token for token, on in zip(sample.token_ids, sample.mask, strict=True) if on]) == "".join(
        text for text, _ in TURNS
    )


def test_with_a_focus_only_actions_that_match_bear_loss(tmp_path: Path) -> None:
    run = recorded(tmp_path / "run", num_episodes=2)
    for tokenizer, expected in ((BYTES, ["Liri", "Kato"]), (WORDS, ["Liri", "Kato"])):
        sample, _ = read_demonstrations(run, tokenizer, focus=re.compile(r"[A-Z]\w+(?=')"))
        shown = [token for token, on in zip(sample.token_ids, sample.mask, strict=True) if on]
        assert tokenizer.decode(shown) == "".join(expected)
    # A token of which only a part matches bears loss.
    sample, _ = read_demonstrations(run, WORDS, focus=re.compile("ato"))
    assert WORDS.decode([token for token, on in zip(sample.token_ids, sample.mask, strict=True) if on]) == "Kato"


def test_each_source_can_have_a_focus_of_its_own(tmp_path: Path) -> None:
    run = recorded(tmp_path / "run", num_episodes=1)

    def shown(focus: str) -> list[str]:
        config = load_config(overrides=[f'sft.episodes=["{run}", "{run}"]', f"sft.focus={focus}"])
        return [
            BYTES.decode([token for token, on in zip(sample.token_ids, sample.mask, strict=True) if on])
            for (sample,) in read_sources(config.sft, BYTES)
        ]

    assert shown('["", "Kato"]') == ["".join(text for text, _ in TURNS), "Kato"]
    assert shown("Kato") == ["Kato", "Kato"]


def test_a_fresh_model_starts_from_its_seed_with_the_words_of_its_demonstrations(tmp_path: Path) -> None:
    def started(run: Path, *overrides: str) -> tuple[torch.Tensor, set[str]]:
        fresh = ("model.path=fresh", "model.device=cpu", f'sft.episodes=["{run}"]')
        model, tokenizer = starting_model(load_config(overrides=[*fresh, *overrides]))
        return model.get_input_embeddings().weight, set(tokenizer.get_vocab())

    world = recorded(tmp_path / "world", num_episodes=6)
    weights, words = started(world)
    assert words == set(build_tokenizer(vocabulary()).get_vocab()), "those of the tokenizer that recorded them"
    assert torch.equal(weights, started(world)[0])
    assert not torch.equal(weights, started(world, "run.seed=1")[0])

    other = recorded(tmp_path / "other", "engine.kind=scripted", "engine.policy=mine:policy", num_episodes=6)
    found = started(other)[1] - set(BYTES.get_vocab())
    assert {"assistant", "code", "submit"} <= {word.strip("Ġ") for word in found}, "a tokenizer of bytes has no words"
    assert not any(character.isdigit() for word in found for character in word)


def test_a_cut_context_is_not_told_in_other_tokens() -> None:
    whole = episode(BYTES, "a")
    second = whole.steps[1]
    cut = structs.replace(second, prompt=Prompt(keep=3, new_ids=second.prompt.new_ids))
    broken = structs.replace(whole, steps=(whole.steps[0], cut))
    with pytest.raises(ModelError, match="step 1 of episode a keeps 3"):
        Translator(BYTES, WORDS).episode(broken)


@pytest.mark.parametrize(
    ("setting", "complaint"),
    [
        ("train.ranks=2", "train.ranks = 2 has no effect in `lzero sft`"),
        ("train.optimizer=muon", 'train.optimizer = "muon" has no effect in `lzero sft`, where sft.optimizer names it'),
        ("train.offload_optimizer=true", "train.offload_optimizer = True has no effect"),
        ("critic.kind=head", 'critic.kind = "head" has no effect'),
    ],
)
def test_keys_that_only_reinforcement_learning_has_are_refused(setting: str, complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        fine_tune(load_config(None, [setting]))


def test_a_rate_of_embeddings_is_refused_where_adamw_has_one_for_all() -> None:
    settings = ["sft.optimizer=adamw", "sft.embedding_lr=0.1"]
    with pytest.raises(ConfigError, match=r'sft.embedding_lr = 0.1 has no effect with sft.optimizer = "adamw"'):
        fine_tune(load_config(None, settings))


def test_what_cannot_be_learned_from_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    config = config_of(tmp_path, num_episodes=2)
    empty = make_run(tmp_path / "empty", *EXPERT)
    wrong = {
        "sft.episodes is empty": "sft.episodes=[]",
        "has no episodes": f'sft.episodes=["{empty.path}"]',
        "not a run directory": f'sft.episodes=["{tmp_path}/nothing"]',
        "one share for each of the 1": "sft.weights=[0.5,0.5]",
        "no such directory": f"model.path={tmp_path}/nowhere",
        "not a regular expression": "sft.focus='('",
        "nothing-matches": "sft.focus=nothing-matches",
        "one for each of the 1": 'sft.focus=["a", "b"]',
    }
    for reason, override in wrong.items():
        with pytest.raises((ConfigError, StoreError, ModelError), match=reason):
            fine_tune(config_of(tmp_path, override))
    assert not Path(config.run.dir).exists()


def test_a_wrong_focus_is_found_before_a_model_is_looked_for(tmp_path: Path) -> None:
    for focus in ("'('", '["a", "b"]'):
        with pytest.raises(ConfigError, match=r"sft\.focus = "):
            fine_tune(config_of(tmp_path, f"sft.focus={focus}", f"model.path={tmp_path}/nowhere", num_episodes=2))


def sample(name: str) -> Sample:
    return make_sample((-1, 0), name=name)


def test_sources_are_mixed_by_weight_and_held_out_episodes_are_never_drawn() -> None:
    sources = [[sample(f"a{number}") for number in range(300)], [sample(f"b{number}") for number in range(100)]]
    mix = Mix(sources, (1.0, 3.0), seed=1)
    drawn = [row.episode_id for row in mix.draw(4000)]
    assert drawn == [row.episode_id for row in Mix(sources, (1.0, 3.0), seed=1).draw(4000)]
    assert drawn != [row.episode_id for row in Mix(sources, (1.0, 3.0), seed=2).draw(4000)]
    assert 0.72 < sum(name.startswith("b") for name in drawn) / 4000 < 0.78
    held_out = {row.episode_id for row in mix.held_out}
    assert {name[0] for name in held_out} == {"a", "b"}
    assert not held_out.intersection(drawn)
    assert set(drawn) | held_out == {row.episode_id for source in sources for row in source}
    by_size = [row.episode_id for row in Mix(sources, (), seed=1).draw(4000)]
    assert 0.22 < sum(name.startswith("b") for name in by_size) / 4000 < 0.28


@pytest.mark.timeout(300)  # peft is imported, which takes ten seconds of an idle core
def test_an_adapter_is_merged_into_the_model_that_is_written(tmp_path: Path) -> None:
    done = fine_tune(config_of(tmp_path, "lora.rank=4", "sft.tokens=20000"))
    assert done.held_out_after < done.held_out_before
    base, tuned = (
        load_model(directory, dtype="float32", device="cpu").state_dict()
        for directory in (tmp_path / "model", done.model_dir)
    )
    assert base.keys() == tuned.keys()
    changed = {name for name in base if not torch.equal(base[name], tuned[name])}
    assert changed
    assert all("proj" in name for name in changed)
    with pytest.raises(ConfigError, match="a new model has nothing to adapt"):
        fine_tune(config_of(tmp_path, "lora.rank=4", "model.path=fresh"))


def test_an_epoch_shows_every_episode_once() -> None:
    mix = Mix([[sample(f"a{number}") for number in range(50)]], (), seed=1)
    size = 50 - len(mix.held_out)
    first, second = ([row.episode_id for row in mix.draw(size)] for _ in range(2))
    assert len(set(first)) == size
    assert sorted(first) == sorted(second)
    assert first != second


def test_muon_gets_the_matrices_inside_the_layers_and_adamw_the_rest() -> None:
    model: Any = new_model(TINY, BYTES, seed=0)
    muon, adamw = make_optimizers(model, load_config(overrides=["sft.optimizer=muon"]).sft)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    owned = [
        {names[id(parameter)] for group in optimizer.param_groups for parameter in group["params"]}
        for optimizer in (muon, adamw)
    ]
    assert owned[0] | owned[1] == set(names.values())
    assert not owned[0] & owned[1]
    assert all("proj" in name for name in owned[0])
    assert all("embed" in name or "norm" in name for name in owned[1])
