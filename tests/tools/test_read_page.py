"""read_page against servers on loopback: pages as Markdown, what cannot be read, and readers elsewhere."""

import asyncio
from pathlib import Path

import pytest
from tool_calls import config, text, told
from web_servers import Request, json_response, pages, response, serving

from lzero.config import Config, load_config
from lzero.errors import ConfigError
from lzero.tools.catalog import CATALOG, open_tool
from lzero.tools.read_page import LocalReader
from lzero.tools.web import MAX_BYTES, WebClient
from lzero.types import Json

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("no_keys_of_services")]
ARTICLE = """<!DOCTYPE html><html><head><meta charset="utf-8"><title>Liri &amp; its
 founder</title><script>evil()</script></head><body><nav><a href="/menu">Menu</a></nav>
<article><h1>Liri</h1><p>Liri is a town that was founded by <a href="/wiki/Titu">Titu</a>, who came from far away and stayed there
for the rest of a long life, as the chronicles of the town tell us at some length and with much detail.</p>
<table><tr><th>Year</th><th>People</th></tr><tr><td>1200</td><td>12</td></tr></table>
<ul><li>First point about the town</li><li>Second point</li></ul></article></body></html>"""


async def test_a_page_becomes_markdown_with_its_title_and_links() -> None:
    page = response(ARTICLE.encode(), content_type="text/html")
    async with serving(pages({"/wiki/Liri": page, "/old": response(status=301, location="/wiki/Liri")})) as server:
        tool = open_tool("read_page", config(allow_hosts=[server.host]))
        read = await text(tool, url=f"{server.url}/old")
        assert read.startswith(f"Title: Liri & its founder\nURL: {server.url}/wiki/Liri\n\n")
        assert f"[Titu]({server.url}/wiki/Titu)" in read
        assert "| 1200 | 12 |" in read
        assert "- First point" in read
        assert "evil" not in read
    assert tool.description.startswith("read_page(url: str) -> str\nRead a web page.")


async def test_a_page_without_an_article_gives_all_its_text() -> None:
    links = "".join(f'<li><a href="/{n}">Entry number {n}</a></li>' for n in range(50))
    answers = {
        "/index": response(f"<html><body><ul>{links}</ul></body></html>".encode(), content_type="text/html"),
        "/empty": response(b"", content_type="text/html"),
        "/broken": response(b"<html><body><p>Un<b>closed <<< &#xZZ; \x00 text" * 3, content_type="text/html"),
        "/deep": response(b"<div>" * 100_000 + b"down here", content_type="text/html"),
    }
    async with serving(pages(answers)) as server:
        tool = open_tool("read_page", config(allow_hosts=[server.host]))
        assert "Entry number 49" in await text(tool, url=f"{server.url}/index")
        assert "(the page holds no text)" in await text(tool, url=f"{server.url}/empty")
        assert "text" in await text(tool, url=f"{server.url}/broken")
        assert "URL: " in await text(tool, url=f"{server.url}/deep")


async def test_a_page_that_is_made_to_be_hard_gives_its_text() -> None:
    attributes = " ".join(f"a{number}=1" for number in range(300_000))
    hard = f"<title>Hard</title><script>if (a < b) evil()</script><p {attributes}>One&amp;<b>two</b></p><style>p {{}}</style><p>three"
    async with serving(pages({"/": response(hard.encode(), content_type="text/html")})) as server:
        client = WebClient(allow_hosts=[server.host])
        page = await LocalReader(client, cpu_s=2)(f"{server.url}/")
        assert page.text == "Hard\nOne&two\nthree"
        assert "layout could not be read" in page.note


async def test_a_character_reference_of_any_length_is_text() -> None:
    attributes = " ".join(f"a{number}=1" for number in range(300_000))
    references = f"&#{'9' * 5_000};b&#x{'f' * 5_000};c&#{'0' * 5_000}65;d&#65;"
    hard = f"<p {attributes}>a{references}"
    async with serving(pages({"/": response(hard.encode(), content_type="text/html")})) as server:
        page = await LocalReader(WebClient(allow_hosts=[server.host]), cpu_s=2)(f"{server.url}/")
    assert "layout could not be read" in page.note
    assert page.text == "a\ufffdb\ufffdc\ufffddA"


async def test_no_page_takes_more_time_on_the_host_than_its_length() -> None:
    """Each of these took minutes, in which nothing else of the process ran."""
    attributes = " ".join(f"a{number}=1" for number in range(300_000))
    unclosed = f"<p {attributes}>One<{'a' * 1_000_000}"
    answers = {
        "/tag": response(unclosed.encode(), content_type="text/html"),
        "/charset": response(b"caf\xc3\xa9", content_type=f"text/plain; charset={' ' * 60_000}!"),
    }
    async with serving(pages(answers)) as server:
        read = LocalReader(WebClient(allow_hosts=[server.host]), cpu_s=2)
        async with asyncio.timeout(30):
            assert (await read(f"{server.url}/tag")).text.startswith("One")
            assert (await read(f"{server.url}/charset")).text == "café"


@pytest.mark.parametrize(
    ("body", "content_type", "expected"),
    [
        (b'{"a": [1, 2]}', "application/json", '{"a": [1, 2]}'),
        ("Grüße".encode("latin-1"), "text/plain; charset=ISO-8859-1", "Grüße"),
        ("北京".encode("gbk"), "text/plain; charset=gbk", "北京"),
        (b"# Title\n", "text/markdown", "# Title"),
        (b"a,b\n1,2", "text/csv", "a,b\n1,2"),
        (b"<feed/>", "application/atom+xml", "<feed/>"),
        (b"no type at all", "", "no type at all"),
        (b"caf\xff", "text/plain; charset=punycode", "caf\ufffd"),
        (b"\xef\xbb\xbfmark", "text/plain", "mark"),
    ],
)
async def test_text_passes_through(body: bytes, content_type: str, expected: str) -> None:
    async with serving(pages({"/": response(body, content_type=content_type)})) as server:
        tool = open_tool("read_page", config(allow_hosts=[server.host]))
        assert await text(tool, url=f"{server.url}/") == f"URL: {server.url}/\n\n{expected}"


async def test_a_long_page_is_cut_and_says_so() -> None:
    async with serving(pages({"/": response(b"word " * 1_000, content_type="text/plain")})) as server:
        tool = open_tool("read_page", config(allow_hosts=[server.host], page_tokens=10))
        assert (await text(tool, url=f"{server.url}/")).endswith(
            "word word word\n\n[cut: the first 40 of 4,999 characters]".replace("word word word", "word " * 7 + "word ")
        )


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (response(b"%PDF-1.7", content_type="application/pdf"), "is no page but a application/pdf of 8 bytes"),
        (response(b"\x89PNG\0", content_type="image/png"), "is no page but a image/png"),
        (response(b"\x7fELF\0\0", content_type=""), "is no page but a binary file"),
        (response(b"a\0b", content_type="text/plain"), "is no page but a text/plain"),
        (response(status=404), "there is no such page"),
        (response(status=403), "lets no programs read it"),
        (response(status=418), "HTTP 418, try another page"),
        (response(status=503), "HTTP 503; try another page"),
        (response(status=302, location="http://169.254.169.254/"), "not on the public internet"),
        (b"nonsense", "broken"),
    ],
)
async def test_what_cannot_be_read_is_told_to_the_agent(answer: bytes, message: str) -> None:
    async with serving(pages({"/": answer})) as server:
        tool = open_tool("read_page", config(allow_hosts=[server.host]))
        assert message in await told(tool, "agent", url=f"{server.url}/")


async def test_a_site_in_trouble_is_tried_again() -> None:
    answers = [response(status=503), b"", response(b"now", content_type="text/plain")]

    async def answer(request: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(answers.pop(0))

    async with serving(answer) as server:
        tool = open_tool("read_page", config(allow_hosts=[server.host], tries=3))
        assert (await text(tool, url=server.url)).endswith("now")


def jina(content: str) -> dict[str, Json]:
    data: dict[str, Json] = {"title": "Liri", "description": "", "url": "https://en.example/Liri", "content": content}
    return {"code": 200, "status": 20000, "data": data | {"usage": {"tokens": 9}}, "meta": {"usage": {"tokens": 9}}}


async def test_a_jina_reader_reads_for_us(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JINA_API_KEY", "k-jina")
    async with serving(pages({"/": json_response(jina("# Liri\n\nA town."))})) as server:
        tool = open_tool("read_page", config(reader="jina", reader_url=f"{server.url}/"))
        assert await text(tool, url="https://en.example/Liri") == (
            "Title: Liri\nURL: https://en.example/Liri\n\n# Liri\n\nA town."
        )
        (request,) = server.requests
        assert (request.method, request.json) == ("POST", {"url": "https://en.example/Liri"})
        assert request.headers["authorization"] == "Bearer k-jina"
        assert "begins with https://" in await told(tool, "agent", url="file:///etc/passwd")
        assert len(server.requests) == 1


async def test_a_jina_reader_is_not_sent_where_we_would_not_go() -> None:
    async with serving(pages({"/": json_response(jina("secrets"))})) as server:
        tool = open_tool("read_page", config(reader="jina", reader_url=f"{server.url}/"))
        for url in (
            "http://169.254.169.254/latest/meta-data",
            "http://localhost/",
            "http://[::1]/",
            "http://2130706433/",
        ):
            assert "not on the public internet" in await told(tool, "agent", url=url)
        assert "has port" in await told(tool, "agent", url=server.url)
        assert server.requests == []


async def test_a_page_that_only_others_may_read_does_not_come_from_the_cache(tmp_path: Path) -> None:
    async with serving(pages({"/": response(b"internal", content_type="text/plain")})) as server:
        inside = open_tool("read_page", config(allow_hosts=[server.host], cache=str(tmp_path)))
        assert "internal" in await text(inside, url=server.url)
        outside = open_tool("read_page", config(cache=str(tmp_path)))
        assert "internal" not in await told(outside, "agent", url=server.url)


def test_an_address_with_a_password_is_refused_and_not_shown() -> None:
    for key in ("search_url", "vision_url", "proxy"):
        with pytest.raises(ConfigError, match="contains a user name or password") as raised:
            load_config(None, [f"tools.{key}=http://me:hunter2@localhost:1"])
        assert "hunter2" not in str(raised.value)


@pytest.mark.parametrize(
    ("status", "fault"),
    [*((status, "agent") for status in (408, 422, 451, 500, 524)), *((status, "tool") for status in (401, 402, 404))],
)
async def test_a_jina_readers_failures_are_told_apart(status: int, fault: str) -> None:
    said = json_response({"code": status, "name": "AssertionFailureError", "message": "no such domain"}, status=status)
    async with serving(pages({"/": said})) as server:
        tool = open_tool("read_page", config(reader="jina", reader_url=f"{server.url}/"))
        assert f"(HTTP {status}" in await told(tool, fault, url="https://en.example/Liri")


async def test_a_page_that_takes_a_jina_reader_too_long_is_the_agents_and_a_reader_that_is_not_there_the_tools() -> (
    None
):
    async def hang(request: Request, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(60.0)

    async with serving(hang) as server:
        tool = open_tool("read_page", config(reader="jina", reader_url=f"{server.url}/", timeout_s=2.0, tries=3))
        assert "try another page" in await told(tool, "agent", url="https://en.example/Liri")
        assert len(server.requests) == 1
    gone = open_tool("read_page", config(reader="jina", reader_url="http://127.0.0.1:1/"))
    assert "cannot reach" in await told(gone, "tool", url="https://en.example/Liri")


async def test_a_page_that_is_too_large_for_a_jina_reader_is_the_agents() -> None:
    async with serving(pages({"/": json_response(jina("x" * MAX_BYTES))})) as server:
        tool = open_tool("read_page", config(reader="jina", reader_url=f"{server.url}/"))
        assert "has more than 5,000,000 bytes; try another" in await told(tool, "agent", url="https://en.example/")


def test_a_key_that_would_not_act_is_refused() -> None:
    with pytest.raises(ConfigError, match='reader_url has an effect with reader = "jina" only'):
        load_config(None, ["tools.reader_url=http://localhost"])


def test_an_unknown_name_gives_the_nearest_and_all() -> None:
    with pytest.raises(ConfigError, match='did you mean "read_page"') as raised:
        open_tool("readpage", Config())
    assert all(name in str(raised.value) for name in CATALOG)


async def test_a_tool_works_in_one_event_loop_after_another() -> None:
    async with serving(pages({"/": response(b"ok", content_type="text/plain")})) as server:
        tool = open_tool("read_page", config(allow_hosts=[server.host]))
        for _ in range(2):
            assert (await asyncio.to_thread(lambda: asyncio.run(text(tool, url=server.url)))).endswith("ok")
