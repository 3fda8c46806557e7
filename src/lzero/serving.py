"""How a pool is offered over the network: what `lzero pool serve` has options for. Imports nothing of lzero: help texts load it."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Serving:
    """`Serving(host="10.0.0.7", certificate=Path("server.pem"), key=Path("server.key"))`."""

    host: str = "127.0.0.1"
    port: int = 7321
    """0 takes a free one."""
    certificate: Path | None = None
    key: Path | None = None
    lease_s: float = 30.0
    """After so long unheard of, a client loses its REPLs."""
    max_repls: int = 512
    """Of all clients together."""
    insecure: bool = False
    """Whether to serve beyond this machine without TLS, where the network itself is trusted."""
