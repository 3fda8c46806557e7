"""Looking on while an episode is made."""

from lzero.agent.session import Session
from lzero.protocols import Scene
from lzero.types import Step, ToolCall


class Watcher:
    """Is told what happens in an episode, as it happens: override what you want to hear. What a method raises ends the episode, and
    comes out of `run`."""

    def on_scene(self, scene: Scene) -> None:
        """The scene is open; the agent begins."""

    def on_text(self, kind: str, piece: str) -> None:
        """A piece of a reply: `kind` is "reasoning" or "text"; "restart" when the reply is begun anew, and its pieces are void."""

    def on_cell(self, code: str) -> None:
        """A cell begins to run."""

    def on_call(self, call: ToolCall) -> None:
        """A tool has answered, or refused."""

    def on_step(self, step: Step) -> None:
        """A step is over."""

    async def on_end(self, session: Session) -> None:
        """The episode is over, however it ended, and its session still there, unless time or somebody broke it off."""


class Relay(Watcher):
    """A watcher that passes everything on to `watcher`: override a method to do something more."""

    def __init__(self, watcher: Watcher) -> None:
        self._watcher = watcher

    def on_scene(self, scene: Scene) -> None:
        self._watcher.on_scene(scene)

    def on_text(self, kind: str, piece: str) -> None:
        self._watcher.on_text(kind, piece)

    def on_cell(self, code: str) -> None:
        self._watcher.on_cell(code)

    def on_call(self, call: ToolCall) -> None:
        self._watcher.on_call(call)

    def on_step(self, step: Step) -> None:
        self._watcher.on_step(step)

    async def on_end(self, session: Session) -> None:
        await self._watcher.on_end(session)
