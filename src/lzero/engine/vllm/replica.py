"""Sample and score on one server of an engine."""

from collections.abc import Callable, Sequence

from lzero.engine.vllm.adapters import Adapters
from lzero.engine.vllm.codec import Codec
from lzero.engine.vllm.supervisor import Supervisor
from lzero.types import Completion, Sampling


class Replica:
    """One server of the engine, with lzero's types of requests and completions."""

    def __init__(self, supervisor: Supervisor, codec: Codec, adapters: Adapters, newest: Callable[[], int]) -> None:
        """`newest` returns the newest policy version that the servers were sent."""
        self.supervisor = supervisor
        self.server = supervisor.server
        self._codec = codec
        self._adapters = adapters
        self._newest = newest
        self._version: int | None = None

    @property
    def name(self) -> str:
        return self.server.name

    async def sample(
        self, ids: Sequence[int], sampling: Sampling, *, request_id: str, affinity: str, deadline_s: float
    ) -> Completion:
        """Continue `ids`. Raises EngineError for a request that does not fit, a failure of the server, and a missed deadline."""
        self._codec.check(ids, sampling, request_id)
        async with self.supervisor.request():
            with self._adapters.request() as adapter:
                choice = await self.server.generate(
                    ids,
                    sampling,
                    stop_ids=sorted(self._codec.stop_ids),
                    adapter=adapter.name if adapter else "",
                    request_id=request_id,
                    deadline_s=deadline_s,
                )
        return self._codec.completion(choice, request_id, newest=self._newest(), adapter=adapter)

    async def score(self, ids: Sequence[int]) -> tuple[float, ...]:
        """Return the log-probability (temperature 1) of each token given those before it; 0.0 for the first."""
        async with self.supervisor.request():
            with self._adapters.request() as adapter:
                return await self.server.score(ids, adapter=adapter.name if adapter else "")

    def admit(self, version: int) -> None:
        """Let the server serve: a probe has shown that it has the weights of `version`."""
        self.supervisor.admit(is_new_version=version != self._version)
        self._version = version
