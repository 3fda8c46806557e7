"""Every exception lzero raises on purpose.

    LzeroError
    ├── ConfigError        a key, value or combination in the configuration; raised before work starts
    ├── DataError          a task file or a task: names file, line and field
    ├── ModelError         a model directory: missing, broken, cut short, without a chat template
    ├── StoreError         a run directory or the episodes in it
    ├── ReplError          the sandbox, never the agent's code
    │   ├── SandboxError       this machine cannot give the isolation asked for; says how to mend it
    │   ├── ProtocolError      a frame that breaks the protocol
    │   ├── ForkRefused        a live REPL that cannot be copied, and why; it goes on
    │   └── ReplDied           a live REPL is gone (killed by us, or by itself): no more cells
    ├── WorkspaceError     a file that cannot go in or out of a REPL: the asker's doing; the REPL lives on
    ├── EngineError        sampling failed or was not answered within its deadline
    │   └── ContextOverflow    the prompt is longer than the model's own window
    ├── ToolError          a tool did not answer; `fault` says whether the agent or the tool is to blame
    │   └── HelperBusy         what all episodes share was not free in time: our failure
    ├── SceneError         an environment did not open a scene, or tell its outcome
    ├── RewardError        a scorer failed
    └── TrainError         training cannot go on (too many failures, a sync that does not hold)
        └── NotFinite          an optimiser step that was not made: NaN or infinity in the loss or the gradient

A message names the offending value and what to do about it: the command line prints it without a traceback.
"""

from typing import Literal


class LzeroError(Exception):
    """Base of all errors above."""


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


class ReplDied(ReplError):
    pass


class WorkspaceError(LzeroError):
    pass


class EngineError(LzeroError):
    pass


class ContextOverflow(EngineError):
    pass


class ToolError(LzeroError):
    """`fault` is "agent" (wrong name, wrong arguments) or "tool" (its own failure, a timeout)."""

    def __init__(self, message: str, *, fault: Literal["agent", "tool"]) -> None:
        if fault not in ("agent", "tool"):
            raise ValueError(f'ToolError: fault is "agent" or "tool", not {fault!r}')
        super().__init__(message)
        self.fault: Literal["agent", "tool"] = fault


class HelperBusy(ToolError):
    """Its `fault` is "tool": too many episodes ask for the same thing at once."""

    def __init__(self, message: str) -> None:
        super().__init__(message, fault="tool")


class SceneError(LzeroError):
    pass


class RewardError(LzeroError):
    pass


class TrainError(LzeroError):
    pass


class CreditError(TrainError):
    """An update that failed before it touched the policy: its estimator raised something or returned no advantages."""


class NotFinite(TrainError):
    pass
