"""Convert episodes to token sequences: steps with prompts that extend each other become one sample.

    step 0   prompt 1 2 · action 3 4
    step 1   prompt 1 2 3 4 5 (keep 4, new 5) · action 6        one sample: 1 2 [3 4] 5 [6]
    step 2   prompt 1 2 7 (keep 2, new 7) · action 8            newly rendered context, a new sample: 1 2 7 [8]

A causal model gives an action token the same log-probability in a merged sequence as in a separate row. So merging changes the cost of an
update (T rows of growing length become one), never its gradient.
"""

from dataclasses import dataclass, field

from lzero.types import Episode, Sample, Step


def to_samples(episode: Episode) -> list[Sample]:
    """Return the samples of one episode, in order; every action token knows its step (`Sample.step_index`).

    Raises ValueError for a failed episode (those are never trained on), and for a prompt that keeps more tokens than exist.
    """
    if episode.status == "failed":
        raise ValueError(f"episode {episode.id} failed ({episode.failure}): it has no samples")
    sequences: list[_Sequence] = []
    for index, step in enumerate(episode.steps):
        last = sequences[-1].token_ids if sequences else []
        keep = step.prompt.keep
        if keep > len(last):
            raise ValueError(f"episode {episode.id}, step {index}: keeps {keep} tokens of a sequence of {len(last)}")
        if not sequences or keep < len(last):
            sequences.append(_Sequence())
            sequences[-1].add_context(tuple(last[:keep]))
        sequences[-1].add_context(step.prompt.new_ids)
        sequences[-1].add_action(index, step)
    return [sequence.sample(episode) for sequence in sequences]


@dataclass
class _Sequence:
    """The columns of a sample under construction."""

    token_ids: list[int] = field(default_factory=list)
    mask: list[int] = field(default_factory=list)
    step_index: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    versions: list[int] = field(default_factory=list)

    def add_context(self, token_ids: tuple[int, ...]) -> None:
        self.token_ids += token_ids
        self.mask += [0] * len(token_ids)
        self.step_index += [-1] * len(token_ids)
        self.logprobs += [0.0] * len(token_ids)
        self.versions += [-1] * len(token_ids)

    def add_action(self, index: int, step: Step) -> None:
        completion = step.completion
        self.token_ids += completion.token_ids
        self.mask += [1] * len(completion.token_ids)
        self.step_index += [index] * len(completion.token_ids)
        self.logprobs += completion.logprobs
        for version, num_tokens in completion.versions:
            self.versions += [version] * num_tokens

    def sample(self, episode: Episode) -> Sample:
        return Sample(
            episode_id=episode.id,
            token_ids=tuple(self.token_ids),
            mask=tuple(self.mask),
            step_index=tuple(self.step_index),
            logprobs=tuple(self.logprobs),
            versions=tuple(self.versions),
            temperature=episode.sampling.temperature,
        )
