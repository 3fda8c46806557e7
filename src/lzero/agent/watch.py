"""Watch an episode while it runs."""

from lzero.agent.episode_repl import EpisodeRepl
from lzero.protocols import Scene
from lzero.types import Step, ToolCall


class Watcher:
    """Receives the events of an episode: override the methods you need. An exception of a method ends the episode, and `run` raises it."""

    def on_scene(self, scene: Scene) -> None:
        """Called when the scene is open and the agent begins."""

    def on_text(self, kind: str, piece: str) -> None:
        """Called with a piece of a reply. `kind`: "reasoning" or "text"; "restart" voids the pieces of a reply that begins again."""

    def on_cell(self, code: str) -> None:
        """Called when a cell begins to run."""

    def on_call(self, call: ToolCall) -> None:
        """Called when a tool has answered or refused."""

    def on_step(self, step: Step) -> None:
        """Called when a step is complete."""

    async def on_end(self, repl: EpisodeRepl) -> None:
        """Called at the end of the episode, before its session closes, unless a deadline or a person broke it off."""


class ForwardingWatcher(Watcher):
    """A watcher that passes every event on to `watcher`: override a method to do something more."""

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

    async def on_end(self, repl: EpisodeRepl) -> None:
        await self._watcher.on_end(repl)
