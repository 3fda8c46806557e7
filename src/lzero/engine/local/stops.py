"""Decide when a completion ends, and decode its text."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from lzero.engine.local.arrays import Bools, Ints

_CUT_CHARS = 8
"""Number of characters that decoding may lose or change if it begins in the middle of a text."""


class Ending:
    """End-of-sequence ids and stop strings of one tokenizer. Not thread-safe.

    It has its own copy of the tokenizer, because other users change the settings of a shared one.
    """

    def __init__(self, tokenizer: Any, vocab_size: int, eos_ids: Sequence[int]) -> None:
        self._tokenizer: Tokenizer = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
        self._vocab_size = vocab_size
        self._pieces: list[str] | None = None
        self._rules: dict[tuple[str, ...], int] = {}
        self._may_stop: Bools = np.zeros((0, vocab_size), dtype=np.bool_)
        self.is_eos: Bools = np.zeros(vocab_size, dtype=np.bool_)
        self.is_eos[list(eos_ids)] = True

    def rule(self, stop: tuple[str, ...]) -> int:
        """Return the number under which `may_stop` knows these stop strings."""
        if stop not in self._rules:
            self._rules[stop] = len(self._rules)
            self._may_stop = np.vstack((self._may_stop, self._candidates({text[-1] for text in stop if text})))
        return self._rules[stop]

    def may_stop(self, rules: Ints, tokens: Ints) -> Bools:
        """Return whether a stop string may end within each token, under its rule. False is certain, so few tokens need decoding."""
        found: Bools = self._may_stop[rules, tokens]
        return found

    def has_stopped(self, ids: Ints, stop: tuple[str, ...]) -> bool:
        """Return whether a stop string ends in the last token of a completion.

        It decodes only the last tokens, because it runs for every token that may end one, and a model may repeat such a token endlessly.
        """
        num_chars = 2 * max(map(len, stop), default=0) + _CUT_CHARS
        num_tokens = num_chars
        while len(text := self._decode(ids[-num_tokens:].tolist())) < num_chars and num_tokens < len(ids):
            num_tokens *= 2  # tokens may have no text, or a part of a character
        return any(string in text for string in stop if string)

    def text(self, ids: Sequence[int]) -> str:
        """Return the completion's text, without the end-of-sequence token."""
        return self._decode(ids[:-1] if len(ids) and self.is_eos[ids[-1]] else ids)

    def _decode(self, ids: Sequence[int]) -> str:
        return self._tokenizer.decode(list(ids), skip_special_tokens=False)

    def _candidates(self, last_characters: set[str]) -> Bools:
        """Return for each token of the vocabulary whether its text may contain one of these characters."""
        if not last_characters:
            return np.zeros(self._vocab_size, dtype=np.bool_)
        if self._pieces is None:
            self._pieces = self._tokenizer.decode_batch(
                [[token] for token in range(self._vocab_size)], skip_special_tokens=False
            )
        # A token may decode to nothing or to a replacement character alone, and to text next to others.
        wanted = (*last_characters, "\ufffd")
        return np.fromiter(
            (not piece or any(character in piece for character in wanted) for piece in self._pieces),
            dtype=np.bool_,
            count=self._vocab_size,
        )
