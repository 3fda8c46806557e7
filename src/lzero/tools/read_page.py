"""The tool `read_page`: a web page as Markdown, by trafilatura on this machine, or by a Jina reader (r.jina.ai, or your own).

A page is hostile: its HTML is parsed in a separate process (tools/inside). The agent sees an error if a site is down or refuses, and may
try another one: the state of the web is not lzero's failure.
"""

import html
import random
import re
from collections.abc import Awaitable, Callable

from msgspec import Struct

from lzero.blocking import in_thread
from lzero.config import Config, ToolsConfig
from lzero.errors import ToolError
from lzero.protocols import Tool
from lzero.text import one_line
from lzero.tools.catalog import KernelPython
from lzero.tools.converter import Converter
from lzero.tools.function import tool
from lzero.tools.keys import find_key
from lzero.tools.retry import Backoff, ServiceError, retrying
from lzero.tools.service import Service, host_of, with_rate_and_cache
from lzero.tools.web import WebClient, WebResponse

JINA_URL = "https://r.jina.ai/"
JINA_VARIABLE = "JINA_API_KEY"
JINA_FAILED = (400, 408, 422, 451, *range(500, 600))
"""Statuses with which a reader may report that it cannot read a page. A failure of the reader itself (5xx) looks the same."""
CPU_S = 10
"""Processor seconds that the layout of a page may take: enough for a megabyte of HTML."""
WALL_S = 25.0
FETCH_S = 30.0
"""Seconds that all tries of a fetch may take; with WALL_S, less than the deadline of a tool call."""
CHARS_PER_TOKEN = 4
"""Approximate. A budget in tokens is applied in characters, because tokens depend on the model."""
_HTML = ("text/html", "application/xhtml+xml")
_TEXT = re.compile(r"text/.+|application/(.+\+)?(json|xml|yaml|x-yaml|javascript|x-ndjson|jsonl|toml|x-tex|x-sh|rtf)")
_CHARSET = re.compile(r"charset\s*+=\s*+[\"']?\s*+([A-Za-z0-9._:-]+)", re.IGNORECASE)
_CHARSETS = re.compile(
    r"utf-?8|utf-?16(le|be)?|(us-)?ascii|latin-?1|iso-?8859-?\d+|windows-?125\d|cp\d+|gb2312|gbk|gb18030|big5(hkscs)?"
    r"|euc-?(jp|kr)|shift[_-]?jis|sjis|iso-2022-(jp|kr)|koi8-?[ru]|mac-?roman|tis-?620",
    re.IGNORECASE,
)
"""Encodings of text, without those that take quadratic time or are not encodings of text (punycode, hex, …)."""
_TITLE = re.compile(r"<title[^>]{0,200}>([^<]{1,1000})", re.IGNORECASE)
_HEAD_CHARS = 100_000
_TITLE_CHARS = 1_000
_TAG = re.compile(r"<(/?)([a-zA-Z][a-zA-Z0-9]*+)?+[^<>]*+>|(?P<none>(?:<[^<>]*+(?!>)){1,1000}+)")
"""A tag, or some of the "<" that nothing closes. The pattern does not backtrack, and no search holds up other threads for long."""
_LONG_REFERENCE = re.compile(r"&#[0-9]{20,}+;?")
"""A character reference that names no character; `int` raises ValueError for more than 4,300 digits."""
_INLINE = frozenset(("a", "abbr", "b", "code", "em", "i", "span", "strong", "sub", "sup", "u", "wbr"))
_UNSEEN = frozenset(("script", "style", "template", "noscript"))


class Page(Struct, frozen=True, kw_only=True):
    """A reader's result for an address."""

    title: str
    url: str
    text: str
    note: str = ""
    """A further note for the agent."""


Reader = Callable[[str], Awaitable[Page]]
"""URL → its page. Raises ToolError."""


def open_read_page(config: Config, _: KernelPython) -> Tool:
    """Return the tool with the reader that [tools] names. A longer page is cut, with a note that says so. Raises ConfigError."""
    tools = config.tools
    max_chars = tools.page_tokens * CHARS_PER_TOKEN
    pages = WebClient(timeout_s=tools.timeout_s, proxy=tools.proxy, allow_hosts=tools.allow_hosts)
    local = tools.reader == "local"
    read: Reader = (
        LocalReader(pages, tries=tools.tries, seed=config.run.seed) if local else JinaReader(pages, _jina(tools))
    )

    @tool
    async def read_page(url: str) -> str:
        """Read a web page. Returns its title, address and content as Markdown with links; plain text and JSON as they are."""
        page = await read(url)
        text, notes = page.text.strip(), [page.note] if page.note else []
        if len(text) > max_chars:
            notes.append(f"cut: the first {max_chars:,} of {len(text):,} characters")
            text = text[:max_chars]
        head = "\n".join(line for line in (f"Title: {page.title}" if page.title else "", f"URL: {page.url}") if line)
        return "\n\n".join((head, text or "(the page holds no text)", *(f"[{note}]" for note in notes)))

    # A page of a host that is allowed here must not reach an agent that may not read it, by way of a cache that both share.
    allowed = "".join(f" {host}" for host in sorted(tools.allow_hosts))
    return with_rate_and_cache(
        read_page, config, version=f"{tools.reader} {tools.reader_url} {tools.page_tokens}{allowed}"
    )


class LocalReader:
    """Fetches a page itself and extracts its content."""

    def __init__(self, client: WebClient, *, tries: int = 3, seed: int = 0, cpu_s: int = CPU_S) -> None:
        """Raise ConfigError if the extractor is not installed."""
        self._client = client
        self._converter = Converter(reads="web", cpu_s=cpu_s, wall_s=WALL_S)
        self._backoff = Backoff(tries=tries)
        self._source = random.Random(seed)

    async def __call__(self, url: str) -> Page:
        try:
            answer = await retrying(lambda: self._fetch(url), self._backoff, self._source, patience_s=FETCH_S)
        except ServiceError as error:
            raise ToolError(f"{error}; try another page", fault="agent") from None
        note = f"only the first {len(answer.body):,} bytes of it were read" if answer.cut else ""
        if answer.media_type in _HTML or (not answer.media_type and answer.body.lstrip()[:1] == b"<"):
            text = _decoded(answer)
            try:
                content = await self._converter.page(text, answer.url)
            except ToolError as error:  # it is too large, or made to be hard
                if error.fault == "tool":
                    raise
                content = await in_thread(_plain, text)
                note = f"its layout could not be read, this is all of its text{'; ' if note else ''}{note}"
            return Page(title=_title(text), url=answer.url, text=content, note=note)
        if (answer.media_type and not _TEXT.fullmatch(answer.media_type)) or b"\0" in answer.body[:1_024]:
            kind = answer.media_type or "binary file"
            raise ToolError(
                f"{answer.url} is no page but a {kind} of {len(answer.body):,} bytes; read_page reads HTML and text: look for a "
                "page that tells of it",
                fault="agent",
            )
        return Page(title="", url=answer.url, text=_decoded(answer), note=note)

    async def _fetch(self, url: str) -> WebResponse:
        """Return the page. Raises ToolError, the agent's fault, if there is none; ServiceError for a site with a failure."""
        headers = {"Accept": "text/html,application/xhtml+xml,text/*;q=0.9,application/json;q=0.8,*/*;q=0.5"}
        answer = await self._client.fetch(url, headers=headers)
        status = answer.status
        if 200 <= status < 300:
            return answer
        said = f"{answer.url} answered HTTP {status}"
        if status in (408, 429) or status >= 500:
            raise ServiceError(said, retry_after_s=answer.retry_after_s)
        if status in (404, 410):
            raise ToolError(f"{said}: there is no such page", fault="agent")
        if status in (401, 402, 403, 451):
            raise ToolError(f"{said}: it lets no programs read it, try another page", fault="agent")
        raise ToolError(f"{said}, try another page", fault="agent")


class _JinaData(Struct):
    content: str | None = None
    title: str | None = None
    url: str = ""
    warning: str | None = None


class _JinaAnswer(Struct):
    data: _JinaData


class JinaReader:
    """Reads pages through a Jina reader, which also renders them and reads PDF. It works without a key, but rarely.

    `pages` checks which pages may be requested. Your own reader in your own network must keep private hosts unreachable under a public
    name.
    """

    def __init__(self, pages: WebClient, service: Service) -> None:
        self._pages = pages
        self._service = service

    async def __call__(self, url: str) -> Page:
        target = self._pages.check(url)
        await self._pages.check_for_another(target)
        asked = {"X-Return-Format": "markdown"}
        data = (await self._service.ask(_JinaAnswer, json={"url": str(target)}, headers=asked)).data
        return Page(
            title=one_line((data.title or "")[:_TITLE_CHARS]),
            url=data.url or str(target),
            text=data.content or "",
            note=data.warning or "",
        )


def _jina(tools: ToolsConfig) -> Service:
    url = tools.reader_url or JINA_URL
    hosts = (host_of(url, setting="tools.reader_url"),) if tools.reader_url else ()
    return Service(
        name="the Jina reader",
        url=url,
        client=WebClient(timeout_s=tools.timeout_s, proxy=tools.proxy, allow_hosts=hosts),
        key=find_key(JINA_VARIABLE, env_file=tools.env_file),
        key_variable=JINA_VARIABLE,
        asked_wrong=JINA_FAILED,
        advice="try another page",
    )


def _plain(text: str) -> str:
    """Return all text of an HTML page, in linear time for any content."""
    parts: list[str] = []
    end, unseen = 0, ""
    for tag in _TAG.finditer(text):
        if tag["none"]:
            continue
        closes, name = bool(tag[1]), (tag[2] or "").lower()
        if not unseen:
            parts.append(text[end : tag.start()])
            if name not in _INLINE:
                parts.append("\n")
            if name in _UNSEEN and not closes:
                unseen = name
        elif closes and name == unseen:
            unseen = ""
        end = tag.end()
    parts.append("" if unseen else text[end:])
    shown = html.unescape(_LONG_REFERENCE.sub("\ufffd", "".join(parts)))
    lines = (" ".join(line.split()) for line in shown.splitlines())
    return "\n".join(line for line in lines if line)


def _decoded(answer: WebResponse) -> str:
    """Return the body as text, in the encoding of the header, or of the beginning of the page, or else in UTF-8."""
    named = _CHARSET.search(answer.headers.get("content-type", "")) or _CHARSET.search(
        answer.body[:2_048].decode("ascii", "replace")
    )
    charset = named[1] if named and _CHARSETS.fullmatch(named[1]) else "utf-8"
    if answer.body.startswith(b"\xef\xbb\xbf"):
        charset = "utf-8-sig"
    try:
        return answer.body.decode(charset, "replace")
    except LookupError:  # one that this Python does not know
        return answer.body.decode("utf-8", "replace")


def _title(text: str) -> str:
    found = _TITLE.search(text[:_HEAD_CHARS])
    return one_line(html.unescape(found[1])) if found else ""
