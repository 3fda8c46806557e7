"""A corpus of one's own: what a directory's passages are, and an index that is made once per content."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from builders import docx, paragraph, pdf
from hypothesis import given
from hypothesis import strategies as st

from lzero.data.files import read_passages
from lzero.errors import DataError
from lzero.tools.corpus import HEADING_CHARS, OVERLAP_CHARS, PASSAGE_CHARS, open_corpus, read_corpus, split
from lzero.types import Passage


def write(directory: Path, **files: str) -> Path:
    """`a_md="…"` is the file a.md."""
    directory.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (directory / name.replace("_", ".")).write_text(text, "utf-8")
    return directory


def passages(directory: Path) -> list[Passage]:
    return list(read_corpus(directory, read_passages))


OPEN = """
import sys; from pathlib import Path
from lzero.data.files import read_passages; from lzero.tools.corpus import open_corpus
print(len(open_corpus(Path(sys.argv[1]), read_passages, cache=Path(sys.argv[2])).search("titu", limit=9)))
"""


def test_every_format_of_a_directory_is_read_in_the_order_of_paths(tmp_path: Path) -> None:
    write(
        tmp_path,
        a_md="# Liri\n\nFounded by Titu.\n\n## Rivals\nKato.",
        b_txt="\ufeff# no heading in plain text",
        c_html="<html><script>x()</script><h1>Kato</h1><p>A <b>twin</b> of <a href='http://x/'>Umi</a>.</p></html>",
        d_jsonl='{"title": "Umi", "text": "a lake"}\n',
        e_py="print()",
    )
    write(tmp_path / "sub", f_rst="Deep below.")
    write(tmp_path / ".git", g_txt="hidden")
    (tmp_path / "u.txt").write_bytes("wide".encode("utf-16"))
    assert passages(tmp_path) == [
        Passage(title="a.md › Liri", text="Founded by Titu."),
        Passage(title="a.md › Liri › Rivals", text="Kato."),
        Passage(title="b.txt", text="# no heading in plain text"),
        Passage(title="c.html › Kato", text="A **twin** of Umi."),
        Passage(title="Umi", text="a lake"),
        Passage(title="sub/f.rst", text="Deep below."),
        Passage(title="u.txt", text="wide"),
    ]


def test_a_comment_in_a_block_of_code_is_no_heading() -> None:
    text = "# Use\n```sh\n# install\nmake\n```\n\n# Not\nthis"
    assert [passage.title for passage in split(text, "a.md", headings=True)] == ["a.md › Use", "a.md › Not"]


def test_a_heading_is_read_without_the_marks_that_close_it_in_a_time_that_follows_from_its_length() -> None:
    titles = {
        "# Liri ##  ": "Liri",
        "## C#": "C",
        "# ###": "#",
        "# a  b": "a  b",
        f"# a{' ' * 100_000}b": f"a{' ' * 199}",
    }
    for line, title in titles.items():
        (passage,) = split(f"{line}\nText.", "a.md", headings=True)
        assert passage.title == f"a.md › {title}"


def test_each_passage_repeats_a_bounded_part_of_a_long_heading() -> None:
    """A document of 4 MB became an index of 4 GB."""
    text = "".join(f"{'#' * level} {'x' * 100_000}\n" for level in range(1, 7)) + "word word.\n\n" * 1_000
    titles = [passage.title for passage in split(text, "a.md", headings=True)]
    assert len(titles) > 1
    assert max(map(len, titles)) < 7 * (HEADING_CHARS + 3)


def test_a_document_of_headings_alone_is_still_found() -> None:
    assert list(split("# Liri\n# Kato", "a.md", headings=True)) == [Passage(title="a.md", text="# Liri # Kato")]


def test_short_paragraphs_share_a_passage_and_the_next_repeats_the_last() -> None:
    paragraphs = [f"{number} {'x' * 148}" for number in range(1, 14)]
    first, second, *_ = split("\n\n".join(paragraphs), "a.txt", headings=False)
    assert first.text.split("\n\n") == paragraphs[:6]
    assert second.text.split("\n\n") == paragraphs[5:11]


def test_a_long_paragraph_is_cut_behind_a_sentence() -> None:
    sentences = " ".join(f"Sentence {number} is here." for number in range(100))
    found = [passage.text for passage in split(sentences, "a.txt", headings=False)]
    assert all(text.endswith("is here.") for text in found)
    assert " ".join(found) == sentences


@given(st.text(alphabet="ab .#\n。京\u3000\0", max_size=400), st.integers(1, 40), st.booleans())
def test_any_text_gives_bounded_passages_and_loses_no_word(text: str, times: int, headings: bool) -> None:
    found = list(split(text * times, "t", headings=headings))
    assert all(0 < len(passage.text) <= PASSAGE_CHARS for passage in found)
    if not headings:
        together = "".join("".join(passage.text.split()) for passage in found)
        assert len("".join((text * times).split())) <= len(together) <= 2 * len(text * times)
    assert OVERLAP_CHARS * 2 < PASSAGE_CHARS  # so that a passage always goes forward


def test_an_index_of_a_directory_is_made_once_per_content(tmp_path: Path) -> None:
    directory, cache = write(tmp_path / "docs", a_md="Founded by Titu."), tmp_path / "cache"
    open_corpus(directory, read_passages, cache=cache).close()
    copy = write(tmp_path / "copy", a_md="Founded by Titu.")
    os.utime(copy / "a.md", (0, 0))
    assert len(open_corpus(copy, read_passages, cache=cache)) == 1
    assert len(list(cache.iterdir())) == 1
    before = (copy / "a.md").stat()
    (copy / "a.md").write_text("Founded by Kato.")  # as long as before, and as old
    os.utime(copy / "a.md", ns=(before.st_atime_ns, before.st_mtime_ns))
    assert open_corpus(copy, read_passages, cache=cache).search("kato", limit=1)
    (copy / "a.md").rename(copy / "b.md")
    assert open_corpus(copy, read_passages, cache=cache).search("b", limit=1)[0].title == "b.md"


def test_one_file_is_indexed_as_ever(tmp_path: Path) -> None:
    long = "word " * 1_000
    write(tmp_path, rows_jsonl=f'{{"title": "Liri", "text": "{long}"}}\n')
    (found,) = open_corpus(tmp_path / "rows.jsonl", read_passages, cache=tmp_path).search("liri", limit=2)
    assert found == Passage(title="Liri", text=long)


def test_several_processes_may_open_one_corpus_at_once(tmp_path: Path) -> None:
    directory = write(tmp_path / "docs", a_md="Titu. " * 50_000)
    command = [sys.executable, "-c", OPEN, str(directory), str(tmp_path / "cache")]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    assert [process.communicate(timeout=60)[0] for process in processes] == ["9\n"] * 3
    assert len(list((tmp_path / "cache").iterdir())) == 1


def test_what_cannot_be_a_corpus_is_told(tmp_path: Path) -> None:
    def never(path: Path) -> Iterator[Passage]:
        raise AssertionError(path)

    (tmp_path / "empty").mkdir()
    with pytest.raises(
        DataError, match=r"empty: none of its 0 files can be part of a corpus; supported endings: \.jsonl"
    ):
        open_corpus(tmp_path / "empty", never)
    with pytest.raises(DataError, match="none of its 1 files can be part of a corpus"):
        open_corpus(write(tmp_path / "code", a_py="1"), never)
    with pytest.raises(DataError, match="none of its files contains text"):
        open_corpus(write(tmp_path / "blank", a_md=" \n"), never, cache=tmp_path / "cache")
    with pytest.raises(DataError, match="cannot read the corpus"):
        open_corpus(tmp_path / "none", never)
    (tmp_path / "pipes").mkdir()
    os.mkfifo(tmp_path / "pipes" / "a.md")
    with pytest.raises(DataError, match=r"a\.md: it is not a regular file"):
        open_corpus(tmp_path / "pipes", never)
    latin = write(tmp_path / "latin", a_md="ok")
    (latin / "b.txt").write_bytes("Łódź, naïve".encode("iso8859-2", "replace"))
    with pytest.raises(DataError, match=r"b\.txt: not a text in UTF-8 \(byte 0 is 0xa3\); save it as UTF-8"):
        open_corpus(latin, never, cache=tmp_path / "cache")
    assert not list((tmp_path / "cache").iterdir())  # nothing half made
    deep = write(tmp_path / "deep", a_html="<div>" * 5_000 + "x")
    with pytest.raises(DataError, match=r"a\.html: it is nested too deep; repair it"):
        open_corpus(deep, never, cache=tmp_path / "cache")


def test_a_page_of_a_corpus_is_taken_apart_in_a_process_that_has_a_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """This one keeps Python's parser for hours."""
    monkeypatch.setattr("lzero.tools.corpus.CONVERTING_S", 1)
    with pytest.raises(DataError, match=r"a\.html takes more than 1 s of processor time"):
        list(read_corpus(write(tmp_path, a_html="<a " * 100_000), read_passages))
    write(tmp_path, a_html="", b_html="<img src=x alt=y>Liri")
    assert passages(tmp_path) == [Passage(title="b.html", text="Liri")]


def test_pages_of_documents_are_found_and_a_broken_one_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.pdf").write_bytes(pdf("Founded by Titu.", "The rival is Kato."))
    (tmp_path / "b.docx").write_bytes(docx(paragraph("Umi", "Heading1") + paragraph("A lake.")))
    index = open_corpus(tmp_path, read_passages, cache=tmp_path / "cache")
    assert index.search("kato", limit=1) == [Passage(title="a.pdf › Page 2", text="The rival is Kato.")]
    assert index.search("lake", limit=1) == [Passage(title="b.docx › Umi", text="A lake.")]
    assert len(index) == 3
    (tmp_path / "c.pdf").write_bytes(b"%PDF-1.7 no more")
    with pytest.raises(DataError, match=r"c\.pdf: it is broken, .*; repair it, or move it out of the corpus"):
        open_corpus(tmp_path, read_passages, cache=tmp_path / "cache")


def test_a_name_that_is_no_text_is_shown_as_far_as_it_is(tmp_path: Path) -> None:
    (tmp_path / os.fsdecode(b"\xff.txt")).write_text("Titu")
    (found,) = open_corpus(tmp_path, read_passages, cache=tmp_path / "cache").search("titu", limit=1)
    assert found == Passage(title="\ufffd.txt", text="Titu")
