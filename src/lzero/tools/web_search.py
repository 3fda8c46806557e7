"""The tool `web_search`: a few results of a search service as text. To add a service, write a function like those here."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass

from msgspec import Struct

from lzero.config import Config, ToolsConfig
from lzero.errors import ConfigError, ToolError
from lzero.protocols import Tool
from lzero.text import one_line, shortened
from lzero.tools.catalog import KernelPython
from lzero.tools.function import tool
from lzero.tools.keys import find_key, need_key
from lzero.tools.retry import ServiceError
from lzero.tools.service import Service, host_of, with_rate_and_cache
from lzero.tools.web import MAX_URL_CHARS, WebClient
from lzero.types import Json

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


def open_web_search(config: Config, _: KernelPython) -> Tool:
    """Return the tool with the service that [tools] names. Raises ConfigError."""
    tools = config.tools
    chosen = _chosen(tools)
    provider = PROVIDERS[chosen]
    url = _search_url(chosen, tools.search_url)
    key = None
    if provider.key_variable:
        key = need_key(provider.key_variable, purpose=f"web_search by {provider.title}", env_file=tools.env_file)
    hosts = (host_of(url, setting="tools.search_url"),) if tools.search_url else ()
    service = Service(
        name=provider.title,
        url=url,
        client=WebClient(timeout_s=tools.timeout_s, proxy=tools.proxy, allow_hosts=hosts),
        key=key,
        key_variable=provider.key_variable,
        key_form="X-API-Key: {}",
        asked_wrong=ASKED_WRONG,
    )
    snippet_chars = tools.snippet_chars

    @tool
    async def web_search(query: str, num_results: int = tools.search_results) -> str:
        """Search the web. Returns the title, address and a snippet of each result, best first; at most 20 results."""
        query = query.strip()
        if not 0 < len(query) <= MAX_QUERY_CHARS:
            raise ToolError(
                f"web_search takes a query of 1 to {MAX_QUERY_CHARS} characters, not {len(query)}", fault="agent"
            )
        found = await provider.search(service, query, min(max(num_results, 1), MAX_RESULTS))
        results = (_as_text(number, one, snippet_chars) for number, one in enumerate(found, start=1))
        return "\n\n".join(results) or f"no results for {query!r}"

    return with_rate_and_cache(web_search, config, version=f"{chosen} {url} {tools.search_results} {snippet_chars}")


def _chosen(tools: ToolsConfig) -> str:
    """Return the configured provider; with "auto", one with an address or a key. Raises ConfigError if there is none."""
    if tools.search != "auto":
        return tools.search
    if tools.search_url:
        return "searxng"
    for name, provider in PROVIDERS.items():
        if provider.key_variable and find_key(provider.key_variable, env_file=tools.env_file):
            return name
    raise ConfigError(
        f"web_search needs a key: set SERPER_API_KEY or EXA_API_KEY in the environment, or in {tools.env_file or '.env'}; or name a "
        "SearXNG as tools.search_url"
    )


def _search_url(provider: str, url: str) -> str:
    """Return the address of `provider`: the `url` of the configuration, or else its own. Raises ConfigError."""
    if provider == "searxng" and url and not url.rstrip("/").endswith("/search"):
        return f"{url.rstrip('/')}/search"
    if found := url or PROVIDERS[provider].url:
        return found
    raise ConfigError(f'tools.search = "{provider}" needs tools.search_url, as in "http://localhost:8888"')


def _as_text(number: int, found: Found, snippet_chars: int) -> str:
    title = one_line(found.title[: 4 * _MAX_TITLE_CHARS])[:_MAX_TITLE_CHARS]
    lines = [f"[{number}] {title or 'no title'}", one_line(found.url[:MAX_URL_CHARS])]
    lines.append(shortened(found.snippet, snippet_chars))
    return "\n".join(line for line in lines if line)
