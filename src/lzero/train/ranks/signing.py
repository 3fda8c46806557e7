"""Sign the texts that ranks write to their store, so that nobody else can write one, and none can be written again.

A signature covers the run, the text, and its key in the store, which names its writer or reader and its number among the texts of its kind.
The run is a random text that rank 0 draws. Rank 0 sends it to each rank in an answer to a random text of that rank, so that no rank takes
the texts of an earlier run with the same secret for those of this one.
"""

import hashlib
import hmac
import secrets

from lzero.errors import RankError
from lzero.train.ranks.place import KEY_VARIABLE

_SIGNATURE = 64
"""Characters of a signature."""


def new_nonce() -> str:
    """Return a random text that no run has used."""
    return secrets.token_hex(16)


class Signing:
    """Signs and checks texts with the run's secret."""

    def __init__(self, secret: str) -> None:
        self._secret = secret.encode()
        self.run = ""
        """The run that signatures belong to; "" until the ranks have agreed on it."""

    def signed(self, key: str, text: str, *, answers: str | None = None) -> str:
        """Return a text as the store holds it under `key`: behind its signature. `answers`: random text of another rank that
        it answers; the signature covers that, and no run.
        """
        signed = f"{self.run if answers is None else answers}\0{key}\0{text}"
        return hmac.new(self._secret, signed.encode(), hashlib.sha256).hexdigest() + text

    def read(self, key: str, found: bytes, *, answers: str | None = None) -> str:
        """Return a text without its signature. Raises RankError if no rank has signed it for this key in this run."""
        text = found[_SIGNATURE:].decode(errors="replace")
        if not hmac.compare_digest(found, self.signed(key, text, answers=answers).encode()):
            raise RankError(
                f"{key} was not written by a rank of this run: somebody else reaches the ranks' store, or {KEY_VARIABLE} or the version "
                "of lzero differs between the ranks"
            )
        return text
