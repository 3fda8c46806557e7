"""Every exception that lzero raises on purpose.

    LzeroError
    ├── ConfigError        a key, value or combination in the configuration; raised before work starts
    ├── DataError          a task file or a task: names file, line and field
    ├── ModelError         a model directory: missing, broken, truncated, without a chat template
    ├── StoreError         a run directory or the episodes in it
    ├── ReplError          the sandbox, never the agent's code
    │   ├── SandboxError       this machine cannot give the requested isolation; names the fix
    │   ├── ProtocolError      a frame that breaks the protocol
    │   ├── ForkRefused        a live REPL that cannot be copied, with the reason; it continues
    │   ├── PoolFull           a pool, or one of its servers, has no room for another REPL
    │   └── ReplDied           a live REPL has ended (killed by lzero, or by itself): no more cells
    │       └── ServerLost         its pool server was lost: the episode can run on another
    ├── WorkspaceError     a file that cannot be transferred, through the caller's mistake; the REPL continues
    ├── EngineError        sampling failed or was not answered within its deadline
    │   ├── ContextOverflow    the prompt is longer than the model's own window
    │   ├── ContentRefused     the endpoint's content filter refuses the prompt
    │   └── NoAnswer           a server gave no response: it was too slow, ended, or broke the connection
    ├── ToolError          a tool gave no answer; `fault` says whether the agent or the tool is to blame
    │   └── HelperBusy         a resource of all episodes was not free in time: lzero's failure
    ├── SceneError         an environment did not open a scene, or return its outcome
    ├── RewardError        a scorer failed
    ├── LaunchError        a program of the run could not be started, or its machine was lost
    └── TrainError         training cannot continue (too many failures, a failed weight sync)
        ├── NotFinite          an optimiser step that was skipped: NaN or infinity in the loss or the gradient
        └── RankError          a process of a run on several ranks ended, hangs, failed, or differs from the others

A message names the offending value and the fix; the command line prints it without a traceback.
"""

from typing import Literal

from lzero.text import unbroken


class LzeroError(Exception):
    """Base of all errors above. Its message can be encoded as UTF-8, whatever text it quotes."""

    def __init__(self, *arguments: object) -> None:
        super().__init__(*(unbroken(each) if isinstance(each, str) else each for each in arguments))


class ConfigError(LzeroError):
    pass


class DataError(LzeroError):
    pass


class ModelError(LzeroError):
    pass


class StoreError(LzeroError):
    pass


class ReplError(LzeroError):
    pass


class SandboxError(ReplError):
    pass


class ProtocolError(ReplError):
    pass


class ForkRefused(ReplError):
    pass


class PoolFull(ReplError):
    pass


class ReplDied(ReplError):
    pass


class ServerLost(ReplDied):
    pass


class WorkspaceError(LzeroError):
    pass


class EngineError(LzeroError):
    pass


class ContextOverflow(EngineError):
    pass


class ContentRefused(EngineError):
    pass


class NoAnswer(EngineError):
    pass


class ToolError(LzeroError):
    """`fault` is "agent" (wrong name, wrong arguments) or "tool" (its own failure, a timeout)."""

    def __init__(self, message: str, *, fault: Literal["agent", "tool"]) -> None:
        if fault not in ("agent", "tool"):
            raise ValueError(f'ToolError: fault is "agent" or "tool", not {fault!r}')
        super().__init__(message)
        self.fault: Literal["agent", "tool"] = fault


class HelperBusy(ToolError):
    """Too many episodes ask for the same resource at once. Its `fault` is "tool"."""

    def __init__(self, message: str) -> None:
        super().__init__(message, fault="tool")


class SceneError(LzeroError):
    pass


class RewardError(LzeroError):
    pass


class LaunchError(LzeroError):
    pass


class TrainError(LzeroError):
    pass


class CreditError(TrainError):
    """An update that failed before it changed the policy: its estimator raised an exception or returned no advantages."""


class NotFinite(TrainError):
    pass


class RankError(TrainError):
    pass
