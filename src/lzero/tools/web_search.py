"""The tool `web_search`: a few results of a search service as text. To add a service, write a function like those here."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import httpx2
import msgspec
from msgspec import Struct

from lzero.errors import ConfigError, ToolError
from lzero.protocols import Tool
from lzero.text import one_line
from lzero.tools.function import tool
from lzero.tools.keys import Secret
from lzero.tools.retry import ServiceError
from lzero.tools.service_json import read_json
from lzero.tools.web import MAX_URL_CHARS, WebClient, ask_service
from lzero.types import Json

T = TypeVar("T")
MAX_RESULTS = 20
MAX_QUERY_CHARS = 1_000
ASKED_WRONG = (400, 414, 422)
"""Statuses with which a service refuses a query; the agent is at fault."""
_MAX_TITLE_CHARS = 300


@dataclass(frozen=True, kw_only=True)
class Found:
    """One result."""

    title: str
    url: str
    snippet: str


@dataclass(frozen=True, kw_only=True)
class Service:
    """A search service: its address and the settings of its requests."""

    name: str
    url: str
    key_variable: str = ""
    key: Secret | None = None
    client: WebClient

    async def ask(
        self, shape: type[T], *, json: dict[str, Json] | None = None, query: Mapping[str, str] | None = None
    ) -> T:
        """Return the service's JSON, as `shape`.

        Raises ServiceError; ToolError, the agent's fault, for a query that the service refuses or that makes its address too long.
        """
        url = str(httpx2.URL(self.url).copy_merge_params(query)) if query else self.url
        if len(url) > MAX_URL_CHARS:  # the encoding makes up to twelve characters of one
            raise ToolError(
                f"{self.name}: the query makes an address of {len(url)} characters, and at most {MAX_URL_CHARS} fit; write a shorter query",
                fault="agent",
            )
        headers = {"Accept": "application/json"} | ({"X-API-Key": self.key.reveal()} if self.key else {})
        answer = await ask_service(
            self.client,
            url,
            name=self.name,
            key_variable=self.key_variable,
            method="POST" if json else "GET",
            headers=headers,
            json=json,
            asked_wrong=ASKED_WRONG,
        )
        try:
            return read_json(answer.body, shape)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise ServiceError(f"{self.name} sent an answer that is not understood: {error}") from None


SearchFunction = Callable[[Service, str, int], Awaitable[Sequence[Found]]]
"""(service, query, number of results) → results, best first. Raises ServiceError."""


class _SerperResult(Struct):
    title: str = ""
    link: str = ""
    snippet: str = ""


class _SerperBox(_SerperResult):
    answer: str = ""


class _SerperAnswer(Struct, rename="camel"):
    organic: list[_SerperResult] = []
    answer_box: _SerperBox | None = None


async def serper(service: Service, query: str, limit: int) -> Sequence[Found]:
    """Return Google's results by serper.dev; its answer box, if there is one, comes first."""
    answer = await service.ask(_SerperAnswer, json={"q": query, "num": limit})
    found = [Found(title=result.title, url=result.link, snippet=result.snippet) for result in answer.organic[:limit]]
    if (box := answer.answer_box) and (box.answer or box.snippet):
        snippet = " ".join(part for part in (box.answer, box.snippet) if part)
        found.insert(0, Found(title=box.title or "Answer", url=box.link, snippet=snippet))
    return found


class _ExaResult(Struct):
    url: str
    title: str | None = None
    text: str | None = None


class _ExaAnswer(Struct):
    results: list[_ExaResult] = []


async def exa(service: Service, query: str, limit: int) -> Sequence[Found]:
    """Return the results of exa.ai; the snippet is the beginning of the page's text."""
    asked: dict[str, Json] = {"query": query, "numResults": limit, "contents": {"text": {"maxCharacters": 1_000}}}
    answer = await service.ask(_ExaAnswer, json=asked)
    return [
        Found(title=result.title or "", url=result.url, snippet=result.text or "") for result in answer.results[:limit]
    ]


class _SearxngResult(Struct):
    url: str
    title: str = ""
    content: str | None = None


class _SearxngAnswer(Struct):
    results: list[_SearxngResult] = []
    unresponsive_engines: list[list[str]] = []


async def searxng(service: Service, query: str, limit: int) -> Sequence[Found]:
    """Return the results of a SearXNG whose settings allow JSON; it cannot limit the number of results."""
    try:
        answer = await service.ask(_SearxngAnswer, query={"q": query, "format": "json"})
    except ServiceError as error:
        if not error.permanent:
            raise
        raise ServiceError(
            f"{error}; check that search.formats in its settings.yml contains json", permanent=True
        ) from None
    if not answer.results and answer.unresponsive_engines:
        engines = ", ".join(": ".join(engine) for engine in answer.unresponsive_engines[:5])
        raise ServiceError(f"{service.name} got no answer from its engines ({engines[:300]})")
    return [Found(title=one.title, url=one.url, snippet=one.content or "") for one in answer.results[:limit]]


@dataclass(frozen=True, kw_only=True)
class Provider:
    """A service that can be selected by name. `url` is "" if every user has their own, `key_variable` if no key is needed."""

    search: SearchFunction
    title: str
    url: str = ""
    key_variable: str = ""


PROVIDERS: Mapping[str, Provider] = {
    "serper": Provider(
        search=serper, title="Serper", url="https://google.serper.dev/search", key_variable="SERPER_API_KEY"
    ),
    "exa": Provider(search=exa, title="Exa", url="https://api.exa.ai/search", key_variable="EXA_API_KEY"),
    "searxng": Provider(search=searxng, title="SearXNG"),
}


def make_web_search(
    search: SearchFunction, service: Service, *, num_results: int = 5, snippet_chars: int = 1_000
) -> Tool:
    """Return the tool for one service. `num_results`: the default number of results of a call."""
    default = num_results

    @tool
    async def web_search(query: str, num_results: int = default) -> str:
        """Search the web. Returns the title, address and a snippet of each result, best first; at most 20 results."""
        if not query.strip() or len(query) > MAX_QUERY_CHARS:
            raise ToolError(
                f"web_search takes a query of 1 to {MAX_QUERY_CHARS} characters, not {len(query.strip())}",
                fault="agent",
            )
        limit = min(max(num_results, 1), MAX_RESULTS)
        found = await search(service, query.strip(), limit)
        return "\n\n".join(_as_text(number, one, snippet_chars) for number, one in enumerate(found, start=1)) or (
            f"no results for {query.strip()!r}"
        )

    return web_search


def search_url(provider: str, url: str) -> str:
    """Return the address of `provider`: the `url` of the configuration, or else its own. Raises ConfigError."""
    own = PROVIDERS[provider].url
    if not (url or own):
        raise ConfigError(f'tools.search = "{provider}" needs tools.search_url, as in "http://localhost:8888"')
    if url and not url.startswith(("http://", "https://")):
        raise ConfigError(f"tools.search_url: {url!r} is not a web address: it must begin with http:// or https://")
    if provider == "searxng" and not url.rstrip("/").endswith("/search"):
        return f"{url.rstrip('/')}/search"
    return url or own


def _as_text(number: int, found: Found, snippet_chars: int) -> str:
    title = one_line(found.title[: 4 * _MAX_TITLE_CHARS])[:_MAX_TITLE_CHARS]
    lines = [f"[{number}] {title or 'no title'}", one_line(found.url[:MAX_URL_CHARS])]
    snippet = one_line(found.snippet[: 4 * snippet_chars])
    lines.append(snippet if len(snippet) <= snippet_chars else f"{snippet[: snippet_chars - 1]}…")
    return "\n".join(line for line in lines if line)
