"""The options of `lzero pool serve`. Imports nothing of lzero, because help texts load it."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Serving:
    """Options of a pool server: `Serving(host="10.0.0.7", certificate=Path("server.pem"), key=Path("server.key"))`."""

    host: str = "127.0.0.1"
    port: int = 7321
    """Port; 0 takes a free one."""
    certificate: Path | None = None
    key: Path | None = None
    lease_s: float = 30.0
    """Seconds of silence after which a client loses its REPLs."""
    max_repls: int = 512
    """The most REPLs of all clients together."""
    insecure: bool = False
    """Whether to serve other machines without TLS, on a trusted network."""
