"""Search: ranking by hand-made passages, any string as a query, an index on disk that is whole or made anew."""

import asyncio
import sqlite3
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from random import Random

import pytest
from builders import CONTEXT
from hypothesis import example, given
from hypothesis import strategies as st

from lzero.data.files import read_passages
from lzero.errors import DataError, ToolError
from lzero.paths import cache_directory
from lzero.tools import PassageIndex, Search
from lzero.tools import search as search_module
from lzero.tools.corpus import open_corpus
from lzero.types import Json, Passage

LIRI = Passage(title="Liri", text="founder Titu; rival Kato")
TITU = Passage(title="Titu", text="friend of Liri and of Kato; teacher Beyoncé")
KATO = Passage(title="Kato", text="born in 北京 in 1990; “Łódź” its twin")
PASSAGES = (LIRI, TITU, KATO, *(Passage(title=f"Other {i}", text=f"nothing of note {i}") for i in range(9)))
INDEX = PassageIndex(PASSAGES)


def corpus(directory: Path, *, name: str = "corpus.jsonl", text: str = "founder Titu") -> Path:
    path = directory / name
    path.write_text(f'{{"title": "Liri", "text": "{text}"}}\n{{"title": null, "text": "no title here"}}\n', "utf-8")
    return path


async def call(search: Search, **arguments: Json) -> Json:
    return await search.call(arguments, CONTEXT)


def test_a_title_counts_for_more_than_a_text() -> None:
    assert INDEX.search("Liri", limit=2) == [LIRI, TITU]
    assert INDEX.search("kato", limit=3)[0] == KATO


def test_case_accents_and_scripts_are_no_hurdle() -> None:
    assert INDEX.search("BEYONCE", limit=1) == [TITU]
    assert INDEX.search("lodz", limit=1) == [KATO]
    assert INDEX.search("北京", limit=5) == [KATO]
    assert INDEX.search("京", limit=5) == [KATO]


def test_equal_scores_keep_the_order_of_the_passages() -> None:
    same = [Passage(title=f"{i}", text="twin") for i in range(30)]
    assert PassageIndex(same).search("twin", limit=30) == same


def test_a_limit_is_kept_and_no_match_is_an_empty_list() -> None:
    assert len(INDEX.search("nothing of note", limit=4)) == 4
    assert INDEX.search("zebra", limit=4) == []
    assert PassageIndex(()).search("zebra", limit=4) == []
    assert len(INDEX) == 12


@pytest.mark.parametrize(
    "query",
    ['"', "'", "a AND", "NOT", "NEAR(", "title: x", "^a*", "-", "(", "\0", "", "{a b}", "+", "a\0b", "\ud800", "%_"],
)
def test_operators_are_just_words(query: str) -> None:
    INDEX.search(query, limit=3)


def test_operators_in_a_query_do_not_hide_its_words() -> None:
    assert INDEX.search('NOT "Liri" NEAR(', limit=1) == [LIRI]
    assert INDEX.search("text: Liri*", limit=1) == [LIRI]


@given(st.text())
@example("x" * 10_000)
@example("x " * 10_000)
@example(" ".join(map(str, range(5_000))))
@example("京" * 10_000)
def test_no_query_ever_raises(query: str) -> None:
    assert len(INDEX.search(query, limit=3)) <= 3


@given(st.text(min_size=1))
def test_a_passage_is_found_by_its_own_text(text: str) -> None:
    passage = Passage(title="", text=text)
    assert PassageIndex((passage,)).search(text, limit=1) in ([passage], [])


def test_the_commonest_words_find_no_passages_when_a_query_would_score_too_many(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = tmp_path / "corpus.jsonl"
    path.write_text("".join(f'{{"title": "{i}", "text": "of course"}}\n' for i in range(200)), "utf-8")
    index = open_corpus(path, read_passages, cache=tmp_path / "cache")
    assert len(index.search("of 7", limit=200)) == 200
    monkeypatch.setattr(search_module, "MAX_SCORED", 150)
    assert [passage.title for passage in index.search("of 7", limit=200)] == ["7"]
    assert len(index.search("of course", limit=200)) == 200  # a query of common words alone is still answered


def test_the_commonest_words_rank_the_passages_that_rarer_ones_find(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    chance = Random(0)
    path = tmp_path / "corpus.jsonl"
    with path.open("w") as rows:
        for number in range(500):
            text = ["founder"] * (number % 10 == 0) + chance.choices(
                ["of", "the", "in", "x", "y"], (6, 3, 4, 20, 20), k=4
            )
            rows.write(f'{{"title": "{number} {chance.choice("xyz")}", "text": "{" ".join(text)}"}}\n')
    index = open_corpus(path, read_passages, cache=tmp_path / "cache")
    query = "the founder of in z"
    by_all = [each for each in index.search(query, limit=500) if "founder" in each.text]
    monkeypatch.setattr(search_module, "MAX_SCORED", 60)
    assert index.search(query, limit=50) == by_all
    assert index.search(query, limit=3) == by_all[:3]
    assert by_all[:3] != index.search("founder", limit=3)


def test_an_index_of_a_file_is_made_once_per_content(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    first = open_corpus(corpus(tmp_path), read_passages, cache=cache)
    assert first.search("titu", limit=1) == [Passage(title="Liri", text="founder Titu")]

    def never(path: Path) -> Iterator[Passage]:
        raise AssertionError(path)

    again = open_corpus(corpus(tmp_path), never, cache=cache)
    assert again.search("title", limit=1) == [Passage(title="", text="no title here")]
    changed = open_corpus(corpus(tmp_path, text="founder Kato"), read_passages, cache=cache)
    assert changed.search("titu", limit=1) == []
    assert len(list(cache.iterdir())) == 2
    assert not first.search("kato", limit=1)


def test_an_index_cut_short_is_made_anew(tmp_path: Path) -> None:
    file = corpus(tmp_path)
    open_corpus(file, read_passages, cache=tmp_path / "cache").close()
    (path,) = (tmp_path / "cache").iterdir()
    whole = path.read_bytes()
    for broken in (whole[: len(whole) // 2], b"", b"not a database"):
        path.write_bytes(broken)
        assert len(open_corpus(file, read_passages, cache=tmp_path / "cache")) == 2


def test_a_bad_row_leaves_no_index_behind(tmp_path: Path) -> None:
    path = tmp_path / "corpus.jsonl"
    path.write_text('{"title": "Liri", "text": "x"}\n{"title": "Titu"}\n', "utf-8")
    with pytest.raises(DataError, match=r"line 2 of .*corpus.jsonl has no field `text`"):
        open_corpus(path, read_passages, cache=tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_missing_corpus_and_an_unwritable_cache_say_so(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"cannot read the corpus .*No such file"):
        open_corpus(tmp_path / "no.jsonl", read_passages)
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"cannot write the search index .*XDG_CACHE_HOME"):
        open_corpus(corpus(tmp_path), read_passages, cache=tmp_path / "file")


def test_the_cache_follows_the_desktop_convention(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_directory("search") == tmp_path / "lzero" / "search"


def test_an_index_answers_many_threads(tmp_path: Path) -> None:
    for index in (INDEX, open_corpus(corpus(tmp_path), read_passages, cache=tmp_path)):
        with ThreadPoolExecutor(8) as threads:
            answers = list(threads.map(lambda _, index=index: index.search("liri", limit=1), range(200)))
        assert answers == [answers[0]] * 200
        assert answers[0][0].title == "Liri"


async def test_the_tool_writes_a_passage_a_line_and_cuts_texts() -> None:
    assert await call(Search(INDEX), query="Liri") == "Liri: founder Titu; rival Kato"
    assert await call(Search(INDEX, num_results=2, snippet_chars=7), query="Liri") == "Liri: founder\nTitu: friend "
    assert await call(Search(INDEX), query="zebra") == "no results"
    untitled = Search(PassageIndex((Passage(title="", text="no title"),)))
    assert await call(untitled, query="title") == "no title"


async def test_a_thread_finds_the_same() -> None:
    search = Search(INDEX, in_thread=True)
    found = await asyncio.gather(*(call(search, query="Liri") for _ in range(20)))
    assert found == ["Liri: founder Titu; rival Kato"] * 20


@pytest.mark.parametrize(
    "arguments", [{}, {"query": 3}, {"query": ""}, {"query": " "}, {"query": None}, {"query": "a", "k": 1}]
)
async def test_misuse_is_the_agents_fault(arguments: dict[str, Json]) -> None:
    with pytest.raises(ToolError, match="search takes one text") as caught:
        await Search(INDEX).call(arguments, CONTEXT)
    assert caught.value.fault == "agent"


async def test_an_unreadable_index_is_the_tools_fault() -> None:
    closed = PassageIndex(PASSAGES)
    closed.close()
    with pytest.raises(ToolError, match="cannot be read") as caught:
        await call(Search(closed), query="Liri")
    assert caught.value.fault == "tool"
    assert isinstance(caught.value.__cause__, sqlite3.Error)


def test_the_tool_describes_itself() -> None:
    search = Search(INDEX)
    assert (search.name, search.parameters) == ("search", ("query",))
    assert search.description.startswith("search(query: str) -> str")
