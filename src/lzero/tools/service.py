"""Ask a service that the configuration names (a search engine, a reader of pages, a model that sees) for its JSON.

    service = Service(name="Serper", url=url, client=WebClient(), key=key, key_variable="SERPER_API_KEY")
    answer = await service.ask(_SerperAnswer, json={"q": "Liri"})

Every failure is one sentence with the party at fault. No key shows in it.
"""

from collections.abc import Container, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit

import httpx2
import msgspec

from lzero.config import Config
from lzero.errors import ConfigError, ToolError
from lzero.json_repair import repaired
from lzero.protocols import Tool
from lzero.text import one_line
from lzero.tools.cache import Cached
from lzero.tools.keys import Secret
from lzero.tools.retry import AskedTooOften, Backoff, RateLimited, Retried, ServiceError, Throttled, Unanswered
from lzero.tools.web import MAX_URL_CHARS, WebClient, WebResponse
from lzero.types import Json

T = TypeVar("T")
CACHE_FILE = "answers.sqlite"
_SAID_CHARS = 200


@dataclass(frozen=True, kw_only=True)
class Service:
    """The address, the key and the failures of a service."""

    name: str
    url: str
    client: WebClient
    key: Secret | None = None
    key_variable: str = ""
    key_form: str = "Authorization: Bearer {}"
    """The header that carries the key."""
    asked_wrong: Container[int] = ()
    """Statuses with which the service refuses what the agent asked for."""
    advice: str = ""
    """Advice to an agent whose choice takes the service too long or makes its answer too large. Without it, that is the service's fault."""

    async def ask(
        self,
        shape: type[T],
        *,
        json: Mapping[str, Json] | None = None,
        query: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> T:
        """Return the service's JSON, as `shape`; `json` is sent by POST.

        Raises ToolError, the agent's fault, for what the agent chose and the service cannot do; ServiceError for any other failure. It
        distinguishes a refused key, an account without credit, and a service that is busy (AskedTooOften) or down.
        """
        url = str(httpx2.URL(self.url).copy_merge_params(query)) if query else self.url
        if len(url) > MAX_URL_CHARS:  # the encoding makes up to twelve characters of one
            raise ToolError(
                f"{self.name}: the query makes an address of {len(url)} characters, and at most {MAX_URL_CHARS} fit; write a shorter query",
                fault="agent",
            )
        answer = await self._fetch(url, json, {"Accept": "application/json", **(headers or {})})
        if answer.status != 200:
            raise self._failure(answer)
        if answer.cut:
            raise self._strained(ServiceError(f"the answer of {self.name} has more than {len(answer.body):,} bytes"))
        try:
            return read_json(answer.body, shape)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise ServiceError(f"{self.name} sent an answer that is not understood: {error}") from None

    async def _fetch(self, url: str, json: Mapping[str, Json] | None, headers: dict[str, str]) -> WebResponse:
        if self.key is not None:
            header, _, value = self.key_form.partition(": ")
            headers[header] = value.format(self.key.reveal())
        method, body = ("GET", None) if json is None else ("POST", dict(json))
        try:
            return await self.client.fetch(url, method=method, headers=headers, json=body, max_redirects=0)
        except Unanswered as error:
            raise self._strained(error) from None
        except ServiceError:
            raise
        except ToolError as error:  # the address is the configuration's
            raise ServiceError(f"{self.name}: {error}", permanent=True) from None

    def _strained(self, error: ServiceError) -> ToolError:
        return ToolError(f"{error}; {self.advice}", fault="agent") if self.advice else error

    def _failure(self, answer: WebResponse) -> ToolError:
        """Return the error for a response that is not a success."""
        status, said = answer.status, self._said(answer)
        if status in self.asked_wrong:
            return ToolError(f"{self.name} cannot do that ({said})", fault="agent")
        if status in (401, 403):
            cause = f"refuses the key in {self.key_variable}" if self.key is not None else "refuses us"
            return ServiceError(f"{self.name} {cause} ({said})", permanent=True)
        if status == 402:
            return ServiceError(f"{self.name} wants to be paid first ({said})", permanent=True)
        if status == 429 or (status == 503 and answer.retry_after_s):
            return AskedTooOften(f"{self.name} is asked too often ({said})", retry_after_s=answer.retry_after_s)
        is_down = status >= 500 or status == 408
        return ServiceError(f"{self.name} failed ({said})", permanent=not is_down, retry_after_s=answer.retry_after_s)

    def _said(self, answer: WebResponse) -> str:
        """Return the status and the beginning of the body, on one line, without the key."""
        text = answer.body[:2_000].decode("utf-8", "replace")
        line = one_line(text if self.key is None else text.replace(self.key.reveal(), "…"))
        return f"HTTP {answer.status}" + (f": {line[:_SAID_CHARS]}" if line else "")


def host_of(url: str, *, setting: str) -> str:
    """Return the "host:port" at which the configuration places a service, which may be anywhere. Raises ConfigError, which names the
    `setting`, for an address that is not one of the web, or has more than host, port and path."""
    try:
        parts = urlsplit(url)
        port = parts.port or (443 if parts.scheme == "https" else 80)
    except ValueError:
        parts, port = urlsplit(""), 0
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
        raise ConfigError(f'{setting} = {url!r} is not a web address, as in "https://api.example.org/v1"')
    return f"[{parts.hostname}]:{port}" if ":" in parts.hostname else f"{parts.hostname}:{port}"


def with_retries(tool: Tool, config: Config) -> Tool:
    """Return the tool with the retries of [tools], and pauses while its service is asked too often."""
    seed = config.run.seed
    return Retried(Throttled(tool, seed=seed), Backoff(tries=config.tools.tries), seed=seed)


def with_rate_and_cache(tool: Tool, config: Config, *, version: str) -> Tool:
    """Return the tool with the rate, retries and cache of [tools]. `version`: everything that its answers depend on but its arguments."""
    rate, cache = config.tools.calls_per_second, config.tools.cache
    tool = with_retries(RateLimited(tool, per_second=rate) if rate else tool, config)
    return Cached(tool, Path(cache) / CACHE_FILE, version=version) if cache else tool


def read_json(body: bytes, shape: type[T]) -> T:
    """Return JSON as `shape`. A part of a character that a service cut in two is U+FFFD. Takes time linear in the body.

    Raises msgspec.DecodeError, UnicodeDecodeError, RecursionError.
    """
    try:
        return msgspec.json.decode(body, type=shape)
    except msgspec.ValidationError:
        raise
    except (msgspec.DecodeError, UnicodeDecodeError):
        return msgspec.json.decode(repaired(body), type=shape)
