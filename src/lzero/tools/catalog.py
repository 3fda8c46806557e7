"""Open the built-in tools by name: `open_tool("web_search", config)`."""

from collections.abc import Callable, Container, Mapping
from difflib import get_close_matches
from pathlib import Path

from lzero.config import Config
from lzero.errors import ConfigError
from lzero.protocols import Tool
from lzero.tools.names import name_problem

CACHE_FILE = "answers.sqlite"

KernelPython = Callable[[], Path]
"""Returns the interpreter of the kernel environment. Raises ConfigError if that is on another machine."""


def _no_kernel() -> Path:
    raise ConfigError("install needs to know the kernel environment")


def open_tool(name: str, config: Config, *, kernel_python: KernelPython = _no_kernel) -> Tool:
    """Return the tool of this name, configured by [tools]. Only `install` uses `kernel_python`.

    Raises ConfigError for an unknown name, and for a missing key or library.
    """
    if name not in CATALOG:
        (nearest,) = get_close_matches(name, CATALOG, n=1, cutoff=0.0)
        raise ConfigError(
            f'agent.tools: there is no tool {name!r}; did you mean "{nearest}"? The built-in tools are '
            f'{", ".join(CATALOG)}; name your own as "package.module:name"'
        )
    return _install(config, kernel_python) if name == INSTALL else CATALOG[name](config)


def check_tool(tool: object, *, taken: Container[str], said: str) -> None:
    """Raise ConfigError for an object that is not a tool, or has a name that is `taken`. `said`: how its message begins."""
    if not isinstance(tool, Tool):
        missing = [part for part in ("name", "parameters", "description", "call") if not hasattr(tool, part)]
        hint = "put @tool (lzero.tools) before the function" if callable(tool) else "see protocols.Tool"
        raise ConfigError(f"{said} is not a tool: it has no {', '.join(missing)} ({hint})")
    if problem := name_problem(tool.name):
        raise ConfigError(
            f"{said} is called {tool.name!r}, which {problem}: give it another name, as in @tool(name=...)"
        )
    parameters = tool.parameters
    if isinstance(parameters, str) or not all(isinstance(each, str) and each.isidentifier() for each in parameters):
        raise ConfigError(f"{said} has parameters {parameters!r:.100}: give a tuple of names, as in ('query',)")
    if len(set(parameters)) != len(parameters):
        raise ConfigError(f"{said} has two parameters of the same name: {', '.join(parameters)}")
    if not isinstance(tool.description, str) or not tool.description.strip():
        raise ConfigError(f"{said} has no description: write one for the model")
    if tool.name in taken:
        raise ConfigError(f"{said} has the name {tool.name!r}, and so has another tool: rename one")


def _web_search(config: Config) -> Tool:
    from lzero.tools.keys import need_key
    from lzero.tools.web import WebClient
    from lzero.tools.web_search import PROVIDERS, Service, make_web_search, search_url

    tools = config.tools
    chosen = _search_provider(config)
    provider = PROVIDERS[chosen]
    url = search_url(chosen, tools.search_url)
    key = None
    if provider.key_variable:
        key = need_key(provider.key_variable, purpose=f"web_search by {provider.title}", env_file=tools.env_file)
    service = Service(
        name=provider.title,
        url=url,
        key_variable=provider.key_variable,
        key=key,
        client=WebClient(timeout_s=tools.timeout_s, proxy=tools.proxy, allow_hosts=_host_of(tools.search_url)),
    )
    made = make_web_search(
        provider.search, service, num_results=tools.search_results, snippet_chars=tools.snippet_chars
    )
    return _wrapped(made, config, version=f"{chosen} {url} {tools.search_results} {tools.snippet_chars}")


def _search_provider(config: Config) -> str:
    """Return the configured provider; with "auto", one with an address or a key."""
    from lzero.tools.keys import find_key
    from lzero.tools.web_search import PROVIDERS

    tools = config.tools
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


def _read_page(config: Config) -> Tool:
    from lzero.tools.keys import find_key
    from lzero.tools.read_page import JINA_URL, JINA_VARIABLE, JinaReader, LocalReader, Reader, make_read_page
    from lzero.tools.web import WebClient

    tools = config.tools
    client = WebClient(timeout_s=tools.timeout_s, proxy=tools.proxy, allow_hosts=tools.allow_hosts)
    read: Reader
    if tools.reader == "jina":
        key = find_key(JINA_VARIABLE, env_file=tools.env_file)
        service = WebClient(timeout_s=tools.timeout_s, proxy=tools.proxy, allow_hosts=_host_of(tools.reader_url))
        read = JinaReader(service, pages=client, key=key, url=tools.reader_url or JINA_URL)
    else:
        read = LocalReader(client, tries=tools.tries, seed=config.run.seed)
    made = make_read_page(read, max_tokens=tools.page_tokens)
    # A page of a host that is allowed here must not reach an agent that may not read it, by way of a cache that both share.
    allowed = "".join(f" {host}" for host in sorted(tools.allow_hosts))
    return _wrapped(made, config, version=f"{tools.reader} {tools.reader_url} {tools.page_tokens}{allowed}")


def _install(config: Config, kernel_python: KernelPython = _no_kernel) -> Tool:
    from lzero.tools.install import Install

    return Install(config.tools.install_allow, python=kernel_python())


def _inspect_file(config: Config) -> Tool:
    from lzero.tools.converter import Converter
    from lzero.tools.inspect_file import make_inspect_file

    return make_inspect_file(Converter(), max_chars=config.tools.file_chars)


def _look(config: Config) -> Tool:
    from lzero.tools.converter import Converter
    from lzero.tools.look import open_look
    from lzero.tools.retry import Backoff, Retried
    from lzero.tools.throttled import Throttled

    tools = config.tools
    look = open_look(
        Converter(),
        base_url=tools.vision_url,
        model=tools.vision_model,
        key_variable=tools.vision_key,
        env_file=tools.env_file,
        proxy=tools.proxy,
    )
    # Never from the cache: the same path and question are of another image after the next cell.
    return Retried(Throttled(look, seed=config.run.seed), Backoff(tries=tools.tries), seed=config.run.seed)


def _wrapped(tool: Tool, config: Config, *, version: str) -> Tool:
    """Wrap a tool that uses a service with the retries, rate and cache of [tools]."""
    from lzero.tools.cache import Cached
    from lzero.tools.retry import Backoff, RateLimited, Retried
    from lzero.tools.throttled import Throttled

    tools = config.tools
    if tools.calls_per_second:
        tool = RateLimited(tool, per_second=tools.calls_per_second)
    tool = Retried(Throttled(tool, seed=config.run.seed), Backoff(tries=tools.tries), seed=config.run.seed)
    return Cached(tool, Path(tools.cache) / CACHE_FILE, version=version) if tools.cache else tool


def _host_of(url: str) -> tuple[str, ...]:
    """Return the allow-list entry of a host that the configuration names, which may be anywhere."""
    from urllib.parse import urlsplit

    return (urlsplit(url).netloc.rpartition("@")[2],) if url else ()


INSTALL = "install"
CATALOG: Mapping[str, Callable[[Config], Tool]] = {
    "web_search": _web_search,
    "read_page": _read_page,
    INSTALL: _install,
    "inspect_file": _inspect_file,
    "look": _look,
}
