"""Keys of the REPLs: their software, isolation, limits and location."""

from typing import Annotated, Literal

from pydantic import Field

from lzero.config.base import Count, Positive, Section

MAX_OUTPUT_KB = 4000
"""Largest `repl.output_kb`."""
MAX_FILE_MB = 256
"""Largest `repl.file_mb`: a file is whole in memory, and several are copied at once."""


class ReplConfig(Section):
    # Software.
    packages: tuple[str, ...] = ()
    """Packages of the kernel environment in addition to IPython, numpy and pandas, as pip requirements."""
    environment: str = ""
    """Directory of the kernel environment; empty: one inside lzero's own Python environment, made on first use."""
    python: str = ""
    """Interpreter that creates the kernel environment; empty: lzero's own."""
    kernelspec: str = "python3"
    """Jupyter kernelspec of tier "unsandboxed", as `jupyter kernelspec list` names it."""
    zygotes: Annotated[int, Field(ge=0)] = 0
    """Maximum number of warm processes that REPLs are forked from; 0: one per core. They start as load requires."""
    forks_per_zygote: Count = 5_000
    """Forks after which a zygote is replaced, because all its REPLs share one memory layout."""

    # Isolation.
    tier: Literal["namespaces", "unsandboxed"] = "namespaces"
    """Isolation of a REPL: "namespaces" (all of docs/sandbox.md), or "unsandboxed" (none: a plain Jupyter kernel with your rights;
    never chosen automatically). `lzero pool probe` checks what this machine supports."""
    cgroups: Literal["auto", "on", "off"] = "auto"
    """Put each REPL in its own control group, so that the kernel limits its memory and workspace together and shares the processor
    fairly: "auto" (if this machine allows it), "on" (required: an error otherwise), "off"."""

    # Limits of one REPL, and of the data transferred to and from it.
    memory_mb: int = Field(2048, ge=64)
    """Maximum memory of all processes of a REPL together; a REPL that exceeds it is killed."""
    disk_mb: int = Field(256, ge=1)
    """Size of a REPL's private workspace, and of the largest file in it."""
    files: int = Field(16_384, ge=64)
    """Maximum number of files and directories in the workspace."""
    processes: int = Field(64, ge=2)
    """Maximum number of processes and threads of a REPL together."""
    open_files: int = Field(256, ge=32)
    """Maximum number of open descriptors of one process of a REPL."""
    cpu_s: Positive = 3600.0
    """Maximum processor seconds of all processes of a REPL together; a REPL that exceeds them is killed."""
    cores: float = Field(0.0, ge=0.0)
    """Maximum processor cores that a REPL uses; 0: no limit. Needs control groups."""
    lifetime_s: Positive = 7200.0
    """Seconds after which a REPL is ended; this counts as a failure of lzero, never as the agent's."""
    output_kb: int = Field(2000, ge=32, le=MAX_OUTPUT_KB)
    """Maximum output of a cell, in 1,000 characters (images in Base64); longer text is cut in its middle, larger values are left
    out."""
    file_mb: int = Field(16, ge=1, le=MAX_FILE_MB)
    """Largest file that is copied into or out of a REPL's workspace."""
    transfers: int = Field(256, ge=0)
    """Maximum number of files copied into and out of one REPL's workspace."""
    tool_calls: Count = 10_000
    """Maximum tool calls of one REPL; further calls are refused."""

    # Location.
    servers: tuple[str, ...] = ()
    """Pool servers that run the REPLs (`lzero pool serve` there), as "ws://host:port" or "wss://host:port"; empty: this machine. Set
    the other keys of this section, except the next three, on the servers."""
    addresses: str = ""
    """File with the addresses of pool servers, instead of `servers`; the run follows its changes (docs/sandbox.md)."""
    token_file: str = ""
    """File with the token of `servers`; empty: take it from the environment variable LZERO_POOL_TOKEN."""
    certificate_authority: str = ""
    """Certificate (PEM) of the authority that signed the certificates of wss:// servers; empty: the system's authorities."""

    @property
    def is_elsewhere(self) -> bool:
        """Whether REPLs run on pool servers."""
        return bool(self.servers or self.addresses)
