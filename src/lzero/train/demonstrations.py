"""Read recorded episodes as sequences for a model to imitate.

A run that was recorded with the same tokenizer and chat template keeps its token ids. Any other is translated: the contents of its turns
(never its control tokens) are decoded with the recording tokenizer and encoded with the new one.
"""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from lzero.agent.renderer import Renderer
from lzero.algo.samples import to_samples
from lzero.engine.kinds import kind_of
from lzero.errors import ModelError, StoreError
from lzero.models import build_tokenizer, decode
from lzero.store import RunDirectory, read_episodes
from lzero.types import Completion, Episode, Prompt, Sample, Step

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

MARK = "lzero-contents"
MAX_WORDS = 1_000
"""The most words of a fresh tokenizer, in addition to single bytes."""
OFTEN = 5
"""Number of occurrences that a word needs."""
_CONTROL = re.compile(r"<\|[a-z_]+\|>")
_PIECE = re.compile(r" ?[^\W\d_]+|[^\w\s]+\n?|\s+")
"""A word with the space before it, punctuation, or white space. Digits stay single tokens, so that a model can copy any number."""


def read_demonstrations(
    run_dir: Path, tokenizer: "PreTrainedTokenizerFast", *, focus: re.Pattern[str] | None = None
) -> list[Sample]:
    """Return every sample of the run's episodes that did not fail, in tokens of `tokenizer`, with temperature 1.

    With `focus`, the mask selects only tokens of actions that overlap a match of it. Raises StoreError if there is no such run or nothing
    to learn from, ModelError if its tokenizer is gone.
    """
    recorded_with = _recorded_with(run_dir)
    episodes = list(_episodes(run_dir))
    if not _same(recorded_with, tokenizer):
        translator = Translator(recorded_with, tokenizer)
        episodes = [translator.episode(episode) for episode in episodes]
    samples = [
        msgspec.structs.replace(
            sample, temperature=1.0, mask=_focused(sample, tokenizer, focus) if focus else sample.mask
        )
        for episode in episodes
        for sample in to_samples(episode)
    ]
    found = [sample for sample in samples if any(sample.mask)]
    if not found:
        raise StoreError(
            f"{run_dir} has no episodes to learn from" + (f" with sft.focus = {focus.pattern!r}" if focus else "")
        )
    return found


def fresh_tokenizer(run_dirs: Sequence[Path]) -> "PreTrainedTokenizerFast":
    """Return a tokenizer for these runs: their own if they share one with words, else one of their most frequent words.

    Raises StoreError, ModelError as `read_demonstrations` does.
    """
    recorded_with = [_recorded_with(run_dir) for run_dir in run_dirs]
    first, plain = recorded_with[0], build_tokenizer()
    if not _same(first, plain) and all(_same(first, other) for other in recorded_with):
        return first
    counts: Counter[str] = Counter()
    for run_dir, tokenizer in zip(run_dirs, recorded_with, strict=True):
        for episode in _episodes(run_dir):
            for sample in to_samples(episode):
                counts.update(_PIECE.findall(_CONTROL.sub("\n", decode(sample.token_ids, tokenizer))))
    often = [piece for piece, count in counts.items() if count >= OFTEN and len(piece) > 1]
    often.sort(key=lambda piece: (-counts[piece] * (len(piece) - 1), piece))  # the tokens that it saves
    return build_tokenizer(often[:MAX_WORDS])


def _recorded_with(run_dir: Path) -> "PreTrainedTokenizerFast":
    config = RunDirectory.open(run_dir).config
    tokenizer = kind_of(config).open_tokenizer(config)
    if tokenizer is None:
        raise StoreError(
            f'{run_dir} was recorded with engine.kind = "{config.engine.kind}", whose replies have no tokens'
        )
    return tokenizer


def _episodes(run_dir: Path) -> Iterator[Episode]:
    return (episode for episode in read_episodes(run_dir) if episode.status != "failed" and episode.steps)


def _focused(sample: Sample, tokenizer: "PreTrainedTokenizerFast", focus: re.Pattern[str]) -> tuple[int, ...]:
    """Return the sample's mask, with 1 only where the text of an action overlaps a match."""
    mask = [0] * len(sample.mask)
    for step in set(sample.step_index) - {-1}:
        positions = [position for position, owner in enumerate(sample.step_index) if owner == step]
        ids = [sample.token_ids[position] for position in positions]
        ends = [len(decode(ids[:count], tokenizer)) for count in range(len(ids) + 1)]
        for match in focus.finditer(decode(ids, tokenizer)):
            for place, position in enumerate(positions):
                if ends[place] < match.end() and ends[place + 1] > match.start():
                    mask[position] = 1
    return tuple(mask)


class Translator:
    """Translates an episode into the tokens of another model. Raises ModelError for a tokenizer that cannot hold a conversation."""

    def __init__(self, source: "PreTrainedTokenizerFast", target: "PreTrainedTokenizerFast") -> None:
        self._source, self._target = source, target
        self._source_renderer, self._target_renderer = Renderer(source), Renderer(target)

    def episode(self, episode: Episode) -> Episode:
        """Return the same turns in other tokens. Log-probabilities are 0, because no model drew these tokens.

        Raises ModelError for a trimmed context.
        """
        steps: list[Step] = []
        recorded, length = 0, 0
        for index, step in enumerate(episode.steps):
            keep, ids = step.prompt.keep, step.prompt.new_ids
            if keep == 0:
                length, new_ids = 0, self._start(ids)
            elif keep == recorded:
                new_ids = self._turn(episode.steps[index - 1].completion, steps[-1].completion, ids)
            else:
                raise ModelError(
                    f"step {index} of episode {episode.id} keeps {keep} of {recorded} tokens of its context: train on "
                    "such an episode with the tokenizer that recorded it"
                )
            recorded = keep + len(ids) + len(step.completion.token_ids)
            completion = self._completion(step.completion)
            prompt = Prompt(keep=length, new_ids=new_ids)
            steps.append(msgspec.structs.replace(step, prompt=prompt, completion=completion))
            length += len(new_ids) + len(completion.token_ids)
        return msgspec.structs.replace(episode, steps=tuple(steps))

    def _start(self, ids: tuple[int, ...]) -> tuple[int, ...]:
        """Return the first prompt, with a system prompt if the recorded one has it."""
        text = self._decode(ids)
        before, between, header = self._around(self._source_renderer.start(MARK, MARK))
        system, found, user = text.removeprefix(before).removesuffix(header).partition(between)
        if between and found and text.startswith(before):
            return self._target_renderer.start(system, user)
        opening, header = self._around(self._source_renderer.start(None, MARK))
        return self._target_renderer.start(None, text.removeprefix(opening).removesuffix(header))

    def _turn(self, said: Completion, told: Completion, ids: tuple[int, ...]) -> tuple[int, ...]:
        """Return the tokens after a completion. `said` is the recorded completion, `told` its translation."""
        to_user, header = self._around(self._source_renderer.turn(said, MARK))
        return self._target_renderer.turn(told, self._decode(ids).removeprefix(to_user).removesuffix(header))

    def _completion(self, completion: Completion) -> Completion:
        ended = completion.token_ids[-1:] == (self._source_renderer.end_of_turn,)
        text = self._decode(completion.token_ids[: len(completion.token_ids) - ended])
        ids = self._target.encode(text, add_special_tokens=False, split_special_tokens=True)
        token_ids = (*ids, self._target_renderer.end_of_turn) if ended else tuple(ids)
        return msgspec.structs.replace(
            completion,
            token_ids=token_ids,
            logprobs=(0.0,) * len(token_ids),
            versions=((completion.versions[0][0], len(token_ids)),) if completion.versions else (),
        )

    def _decode(self, ids: tuple[int, ...]) -> str:
        return decode(ids, self._source)

    def _around(self, ids: tuple[int, ...]) -> list[str]:
        return self._decode(ids).split(MARK)


def _same(one: "PreTrainedTokenizerFast", other: "PreTrainedTokenizerFast") -> bool:
    return bool(
        one.backend_tokenizer.to_str() == other.backend_tokenizer.to_str() and one.chat_template == other.chat_template
    )
