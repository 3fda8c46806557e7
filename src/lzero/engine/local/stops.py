"""When a completion ends, and what it says."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from lzero.engine.local.arrays import Bools, Ints

_CUT_CHARS = 8
"""Characters that decoding may lose or change where it begins in the middle of a text."""


class Ending:
    """End-of-sequence ids and stop strings of one tokenizer. Not thread-safe; keeps a tokenizer of its own, because
    encoding with another's would change it under our feet."""

    def __init__(self, tokenizer: Any, vocab_size: int, eos_ids: Sequence[int]) -> None:
        self._tokenizer: Tokenizer = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
        self._vocab_size = vocab_size
        self._pieces: list[str] | None = None
        self._rules: dict[tuple[str, ...], int] = {}
        self._may_stop: Bools = np.zeros((0, vocab_size), dtype=np.bool_)
        self.is_eos: Bools = np.zeros(vocab_size, dtype=np.bool_)
        self.is_eos[list(eos_ids)] = True

    def rule(self, stop: tuple[str, ...]) -> int:
        """The number by which `may_stop` knows these stop strings."""
        if stop not in self._rules:
            self._rules[stop] = len(self._rules)
            self._may_stop = np.vstack((self._may_stop, self._candidates({text[-1] for text in stop if text})))
        return self._rules[stop]

    def may_stop(self, rules: Ints, tokens: Ints) -> Bools:
        """Could a stop string end within the token, under the rule beside it? False is certain, so that text is decoded for
        few tokens only."""
        found: Bools = self._may_stop[rules, tokens]
        return found

    def has_stopped(self, ids: Ints, stop: tuple[str, ...]) -> bool:
        """Whether a stop string ends in the last token of a completion. Decodes only its last tokens: this is asked of every token
        that may end one, and a model may repeat such a token without end."""
        num_chars = 2 * max(map(len, stop), default=0) + _CUT_CHARS
        num_tokens = num_chars
        while len(text := self._decode(ids[-num_tokens:].tolist())) < num_chars and num_tokens < len(ids):
            num_tokens *= 2  # tokens may have no text, or a part of a character
        return any(string in text for string in stop if string)

    def text(self, ids: Sequence[int]) -> str:
        """The completion's text, without the end-of-sequence token that closed it."""
        return self._decode(ids[:-1] if len(ids) and self.is_eos[ids[-1]] else ids)

    def _decode(self, ids: Sequence[int]) -> str:
        return self._tokenizer.decode(list(ids), skip_special_tokens=False)

    def _candidates(self, last_characters: set[str]) -> Bools:
        """For each token of the vocabulary: could its text hold one of these characters?"""
        if not last_characters:
            return np.zeros(self._vocab_size, dtype=np.bool_)
        if self._pieces is None:
            self._pieces = self._tokenizer.decode_batch(
                [[token] for token in range(self._vocab_size)], skip_special_tokens=False
            )
        # A token may decode to nothing or to a replacement character on its own, and to text beside others.
        wanted = (*last_characters, "\ufffd")
        return np.fromiter(
            (not piece or any(character in piece for character in wanted) for piece in self._pieces),
            dtype=np.bool_,
            count=self._vocab_size,
        )
