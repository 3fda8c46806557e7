"""web_search against servers on loopback that answer as the services do."""

import asyncio
from pathlib import Path

import pytest
from tool_calls import config, text, told
from web_servers import Request, json_response, pages, response, serving

from lzero.errors import ConfigError
from lzero.tools.catalog import open_tool
from lzero.types import Json

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("no_keys_of_services")]
SERPER = {
    "searchParameters": {
        "q": "who founded Liri",
        "gl": "us",
        "hl": "en",
        "type": "search",
        "num": 2,
        "engine": "google",
    },
    "answerBox": {"title": "Liri / Founder", "answer": "Titu", "link": "https://liri.example/"},
    "knowledgeGraph": {"title": "Liri", "type": "Town", "attributes": {"Founded": "1200"}},
    "organic": [
        {
            "title": "Liri",
            "link": "https://en.example/Liri",
            "snippet": "A town.\nFounded \x1b[31mby Titu.",
            "position": 1,
        },
        {
            "title": "Titu",
            "link": "https://en.example/Titu",
            "snippet": "x" * 3_000,
            "date": "2 days ago",
            "position": 2,
        },
        {"title": "No snippet", "link": "https://en.example/No", "position": 3},
    ],
    "peopleAlsoAsk": [{"question": "Who is Titu?", "snippet": "A founder.", "title": "T", "link": "https://t.example"}],
    "relatedSearches": [{"query": "Titu"}],
    "credits": 1,
}
EXA = {
    "requestId": "b5947044c4b78efa9552a7c89b306d95",
    "resolvedSearchType": "neural",
    "results": [
        {
            "id": "https://arxiv.org/abs/2307.06435",
            "title": "A Comprehensive Overview",
            "url": "https://arxiv.org/abs/2307.06435",
            "publishedDate": "2023-11-16T01:36:32.547Z",
            "author": "Humza Naveed",
            "text": "Abstract: Large models …",
            "image": "https://arxiv.org/pdf/2307.06435/page_1.png",
        },
        {"id": "https://b.example/", "title": None, "url": "https://b.example/", "text": None},
    ],
    "costDollars": {"total": 0.007},
}
SEARXNG = {
    "query": "who founded Liri",
    "number_of_results": 0,
    "results": [
        {
            "url": "https://en.example/Liri",
            "title": "Liri",
            "content": "A town founded by Titu.",
            "publishedDate": None,
            "thumbnail": None,
            "engine": "duckduckgo",
            "parsed_url": ["https", "en.example", "/Liri", "", "", ""],
            "template": "default.html",
            "engines": ["duckduckgo", "brave"],
            "positions": [1, 2],
            "score": 3.0,
            "category": "general",
        },
        {"url": "https://en.example/Titu", "title": "Titu", "content": "", "engine": "brave", "score": 1.0},
    ],
    "answers": [],
    "corrections": [],
    "infoboxes": [],
    "suggestions": ["liri town"],
    "unresponsive_engines": [["google", "timeout"]],
}


async def test_serper_is_asked_with_its_key_and_answers_as_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SERPER_API_KEY", "k-serper")
    async with serving(pages({"/search": json_response(SERPER)})) as server:
        tool = open_tool("web_search", config(search="serper", search_url=f"{server.url}/search"))
        found = await text(tool, query=" who founded Liri ", num_results=2)
        (request,) = server.requests
    assert (request.method, request.json) == ("POST", {"q": "who founded Liri", "num": 2})
    assert request.headers["x-api-key"] == "k-serper"
    assert found.startswith(
        "[1] Liri / Founder\nhttps://liri.example/\nTitu\n\n"
        "[2] Liri\nhttps://en.example/Liri\nA town. Founded [31mby Titu.\n\n"
        "[3] Titu\nhttps://en.example/Titu\nxxx"
    )
    assert found.endswith("x…")
    assert len(found.rpartition("\n")[2]) == 1_000


async def test_exa_is_asked_for_the_beginning_of_texts(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("EXA_API_KEY=k-exa\n", encoding="utf-8")
    async with serving(pages({"/search": json_response(EXA)})) as server:
        tool = open_tool("web_search", config(search="exa", search_url=f"{server.url}/search"))
        found = await text(tool, query="overview")
        (request,) = server.requests
    assert request.json == {"query": "overview", "numResults": 5, "contents": {"text": {"maxCharacters": 1000}}}
    assert request.headers["x-api-key"] == "k-exa"
    assert found == (
        "[1] A Comprehensive Overview\nhttps://arxiv.org/abs/2307.06435\nAbstract: Large models …\n\n"
        "[2] no title\nhttps://b.example/"
    )


async def test_any_searxng_is_asked_without_a_key() -> None:
    async with serving(pages({"/search?q=who+founded+Liri%3F&format=json": json_response(SEARXNG)})) as server:
        tool = open_tool("web_search", config(search_url=server.url, search_results=1))
        assert await text(tool, query="who founded Liri?") == (
            "[1] Liri\nhttps://en.example/Liri\nA town founded by Titu."
        )
        assert "x-api-key" not in server.requests[0].headers


@pytest.mark.parametrize("status", [400, 414, 422])
async def test_a_query_that_the_service_refuses_is_the_agents(status: int) -> None:
    async with serving(pages({"/search?q=%22%22&format=json": response(b"bad query", status=status)})) as server:
        tool = open_tool("web_search", config(search_url=server.url))
        assert f"cannot do that (HTTP {status}: bad query)" in await told(tool, "agent", query='""')
        assert len(server.requests) == 1


async def test_no_results_are_an_answer_and_dead_engines_are_not() -> None:
    nothing = SEARXNG | {"results": [], "unresponsive_engines": []}
    answers = {
        "/search?q=nothing&format=json": json_response(nothing),
        "/search?q=dead&format=json": json_response(SEARXNG | {"results": []}),
        "/search?q=html&format=json": response(b"<html>", content_type="text/html"),
        "/search?q=forbidden&format=json": response(status=403),
        "/search?q=half&format=json": json_response({"results": [{"title": "no url"}]}),
    }
    async with serving(pages(answers)) as server:
        tool = open_tool("web_search", config(search_url=f"{server.url}/search"))
        assert await text(tool, query="nothing") == "no results for 'nothing'"
        assert "no answer from its engines (google: timeout)" in await told(tool, "tool", query="dead")
        for query in ("html", "half"):
            assert "not understood" in await told(tool, "tool", query=query)
        assert "check that search.formats in its settings.yml contains json" in await told(
            tool, "tool", query="forbidden"
        )


async def test_a_character_that_a_service_cut_in_two_makes_no_answer_fail() -> None:
    found = response(b'{"results": [{"url": "https://en.example/", "content": "cut \\ud83d"}]}')
    page = response(b'{"data": {"content": "cut \\ud83d"}}', content_type="application/json")
    async with serving(pages({"/": page, "/search?q=Liri&format=json": found})) as server:
        tool = open_tool("web_search", config(search_url=server.url))
        assert "cut \ufffd" in await text(tool, query="Liri")
        tool = open_tool("read_page", config(reader="jina", reader_url=f"{server.url}/"))
        assert "cut \ufffd" in await text(tool, url="https://en.example/Liri")


async def test_an_answer_that_is_nested_without_end_is_the_services_fault() -> None:
    nested = response(b'{"data": ' + b"[" * 100_000, content_type="application/json")
    async with serving(pages({"/": nested, "/search?q=Liri&format=json": nested})) as server:
        tool = open_tool("web_search", config(search_url=server.url, tries=1))
        assert "is not understood" in await told(tool, "tool", query="Liri")
        tool = open_tool("read_page", config(reader="jina", reader_url=f"{server.url}/", tries=1))
        assert "is not understood" in await told(tool, "tool", url="https://en.example/Liri")


async def test_what_the_agent_asks_wrongly_is_told_to_it() -> None:
    tool = open_tool("web_search", config(search_url="http://127.0.0.1:9"))
    assert "query is missing" in await told(tool, "agent")
    assert "1 to 1000 characters, not 0" in await told(tool, "agent", query="  ")
    assert "not 2000" in await told(tool, "agent", query="x" * 2_000)
    assert "web_search(query: str, num_results: int = 5) -> str" in tool.description


async def test_a_query_that_is_too_long_once_it_is_encoded_is_the_agents() -> None:
    async with serving(pages({})) as server:
        tool = open_tool("web_search", config(search_url=server.url))
        for query in ("\u5317" * 460, "\U0001f600" * 400):
            assert "write a shorter query" in await told(tool, "agent", query=query)
        assert server.requests == []


async def test_a_key_that_is_refused_is_not_tried_again_and_does_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SERPER_API_KEY", "k-serper")
    refusal = json_response({"message": "Unauthorized.", "statusCode": 403}, status=403)
    async with serving(pages({"/": refusal})) as server:
        tool = open_tool("web_search", config(search="serper", search_url=f"{server.url}/", tries=3))
        message = await told(tool, "tool", query="a")
        assert len(server.requests) == 1
    assert "Serper refuses the key in SERPER_API_KEY (HTTP 403" in message
    assert "k-serper" not in message


async def test_a_service_that_is_busy_is_asked_again() -> None:
    answers = [response(status=429, retry_after="0"), response(status=503), json_response(SEARXNG)]

    async def answer(request: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(answers.pop(0))

    async with serving(answer) as server:
        tool = open_tool("web_search", config(search_url=server.url, tries=3))
        assert "[2] Titu" in await text(tool, query="a")
        assert len(server.requests) == 3


async def test_answers_are_kept_where_the_configuration_says_so(tmp_path: Path) -> None:
    async with serving(pages({"/search?q=a&format=json": json_response(SEARXNG)})) as server:
        kept = config(search_url=server.url, cache=str(tmp_path / "cache"), calls_per_second=1000.0)
        first = await text(open_tool("web_search", kept), query="a")
        assert await text(open_tool("web_search", kept), query="a") == first
        assert len(server.requests) == 1
        other = config(search_url=server.url, cache=str(tmp_path / "cache"), search_results=1)
        assert await text(open_tool("web_search", other), query="a") != first


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "set SERPER_API_KEY or EXA_API_KEY in the environment, or in .env; or name a SearXNG"),
        ({"search": "serper"}, "web_search by Serper needs a key: set SERPER_API_KEY"),
        ({"search": "exa", "env_file": "keys"}, "cannot read the keys in keys"),
        ({"search": "searxng"}, "needs tools.search_url"),
        ({"search": "searxng", "search_url": "localhost:8888"}, "is not a web address"),
        ({"search_url": "http://localhost:x"}, "is not a web address"),
        ({"search_url": "http://localhost:8888", "proxy": "socks5://a"}, "tools.proxy"),
    ],
)
def test_what_is_missing_is_told_before_work_starts(settings: dict[str, Json], message: str) -> None:
    with pytest.raises(ConfigError) as raised:
        open_tool("web_search", config(**settings))
    assert message in str(raised.value)
