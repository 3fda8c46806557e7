"""Read a user's corpus, a passage file or a directory of documents, as passages and as an index.

    index = open_corpus(Path("handbook"), read_passages)     # .md, .txt, .html, .pdf, .docx, .jsonl, .parquet
    index.search("holiday carried over", limit=3)

A row of a passage file is one passage, unchanged. Documents are split here, between paragraphs. The title of each passage is the document's
path and, except for plain text, the headings (or the page) above it.
"""

import asyncio
import functools
import hashlib
import os
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from lzero.errors import DataError, ToolError
from lzero.paths import file_problem, is_within, read_bounded
from lzero.tools.converter import Converter
from lzero.tools.search import FORMAT, PassageIndex
from lzero.types import Passage

ReadRows = Callable[[Path], Iterable[Passage]]
"""Reads a passage file; raises DataError."""

PASSAGE_CHARS = 1_000
"""The most characters of a document's passage, which is what `search` shows of it."""
OVERLAP_CHARS = 200
"""The most characters of whole paragraphs that a passage repeats from the one before it."""
HEADING_CHARS = 200
"""The most characters of a heading in a title, which each passage below the heading repeats."""
ROWS = (".jsonl", ".jsonl.gz", ".parquet")
TEXT = (".txt", ".text", ".rst")
MARKDOWN = (".md", ".markdown")
HTML = (".html", ".htm", ".xhtml")
CONVERTED = (".pdf", ".docx", ".pptx")
SUFFIXES = (*ROWS, *TEXT, *MARKDOWN, *HTML, *CONVERTED)
DOCUMENT_BYTES = 1 << 30
"""Bytes of the largest document file."""
DOCUMENT_CHARS = 2_000_000
"""The most characters of a document that is converted: a few books."""
CONVERTING_S = 600
"""Seconds that the conversion of one document may take."""
_SPLITTING = 2
"""Version of the splitting. An increase makes older indexes invalid."""
_HEADING = re.compile(r"(#{1,6})\s+(\S.*)")
_INK = re.compile(r"\S")
_FENCE = re.compile(r"\s{0,3}(```|~~~)")


def open_corpus(path: Path, read_rows: ReadRows, *, cache: Path | None = None) -> PassageIndex:
    """Return the index of a passage file or a directory, made once and kept in `cache` under the hash of the files' contents.

    The hash is of contents, not times. So a copy or a fresh checkout of a directory finds its index, and a change that keeps size and time
    is noticed. Hashing costs about a second per gigabyte, once a run. Blocks, so call it outside of an event loop's thread. Raises
    DataError; ConfigError if a library for a file's format is missing.
    """
    digest = hashlib.blake2b("".join(corpus_hashes(path)).encode(), digest_size=16)
    key = f"{digest.hexdigest()} {FORMAT} {_SPLITTING}"
    return PassageIndex.kept(key, functools.partial(read_corpus, path, read_rows), cache=cache)


def corpus_hashes(path: Path) -> list[str]:
    """Return a hash of the name and the content of each file of a corpus, in their order. Raises DataError."""
    if not path.is_dir():
        return [_content_hash(path, path.name)]
    return [_content_hash(file, _name(file, path)) for file in corpus_files(path)]


def read_corpus(path: Path, read_rows: ReadRows) -> Iterator[Passage]:
    """Yield the passages of a passage file or a directory. Raises as `open_corpus` does."""
    if not path.is_dir():
        yield from read_rows(path)
        return
    num_passages = 0
    for file in corpus_files(path):
        passages = read_rows(file) if _is(file, ROWS) else _document(file, _title(file, path))
        for passage in passages:
            num_passages += 1
            yield passage
    if not num_passages:
        raise DataError(f"{path}: none of its files contains text")


def corpus_files(directory: Path) -> list[Path]:
    """Return the files of a directory that belong to a corpus, ordered by path, without hidden ones and other formats.

    Raises DataError if there are none.
    """

    def refuse(error: OSError) -> None:
        raise DataError(f"cannot read the corpus {directory}: {error.filename}: {error.strerror}")

    files = []
    for parent, directories, names in os.walk(directory, onerror=refuse):
        directories[:] = [name for name in directories if not name.startswith(".")]
        files += [Path(parent, name) for name in names if not name.startswith(".")]
    found = sorted((file for file in files if _is(file, SUFFIXES)), key=lambda file: _name(file, directory))
    if not found:
        raise DataError(
            f"{directory}: none of its {len(files)} files can be part of a corpus; supported endings: {', '.join(SUFFIXES)}"
        )
    for file in found:
        if file.is_symlink() and not is_within(file, directory):
            raise DataError(
                f"{file} is a link to a file outside of the corpus, which is not followed: remove it, or copy the file"
            )
        if problem := file_problem(file):
            raise DataError(f"{file}: {problem}")
    return found


def split(text: str, title: str, *, headings: bool) -> Iterator[Passage]:
    r"""Yield a document's passages. With `headings`, each Markdown heading begins a passage, and is part of its title.

    split("# Liri\n\nFounded by Titu.\n\n## Rivals\n\nKato.", "a.md", headings=True)
        → Passage(title="a.md › Liri", text="Founded by Titu."), Passage(title="a.md › Liri › Rivals", text="Kato.")
    """
    trail: list[tuple[int, str]] = []
    seen = False
    for heading, body in _sections(text) if headings else [(None, text)]:
        if heading is not None:
            level = len(heading[1])
            named = heading[2].rstrip().rstrip("#").rstrip()[:HEADING_CHARS] or "#"
            trail = [*(above for above in trail if above[0] < level), (level, named)]
        full = " › ".join([title, *(name for _, name in trail)])
        for passage in _packed(_paragraphs(body)):
            seen = True
            yield Passage(title=full, text=passage)
    if not seen and trail:  # headings and nothing below them
        yield Passage(title=title, text=" ".join(text.split())[:PASSAGE_CHARS])


def _content_hash(file: Path, name: str) -> str:
    """Return a hash of a file's bytes and its name. Raises DataError if it cannot be read."""
    if file.is_fifo() or file.is_socket() or file.is_char_device():  # opening it could block
        raise DataError(f"cannot read the corpus {file}: it is not a regular file")
    try:
        with file.open("rb") as opened:
            digest = hashlib.file_digest(opened, lambda: hashlib.blake2b(digest_size=16))
    except OSError as error:
        raise DataError(f"cannot read the corpus {file}: {error.strerror}") from error
    digest.update(name.encode(errors="surrogateescape"))
    return digest.hexdigest()


def _sections(text: str) -> Iterator[tuple[re.Match[str] | None, str]]:
    """Yield each heading with the text below it; first, without a heading, the text above all."""
    heading, fence = None, ""
    lines: list[str] = []
    for line in text.splitlines():
        if mark := _FENCE.match(line):
            fence = "" if fence == mark[1] else fence or mark[1]
        found = None if fence else _HEADING.match(line)
        if found:
            yield heading, "\n".join(lines)
            heading, lines = found, []
        else:
            lines.append(line)
    yield heading, "\n".join(lines)


def _paragraphs(text: str) -> Iterator[str]:
    """Yield paragraphs no longer than a passage. A longer one is cut after a sentence, a line or a word, or within an overlong word."""
    for block in re.split(r"\n[^\S\n]*\n", text):
        block, start = block.strip(), 0
        while len(block) - start > PASSAGE_CHARS:
            window = block[start : start + PASSAGE_CHARS]
            ends = (window.rfind(mark) + 1 for mark in (". ", "。", "\n", " "))
            cut = next((end for end in ends if end > PASSAGE_CHARS // 2), PASSAGE_CHARS)
            yield window[:cut].rstrip()
            after = _INK.search(block, start + cut)
            assert after is not None  # a block ends with one
            start = after.start()
        if block:
            yield block[start:]


def _packed(paragraphs: Iterable[str]) -> Iterator[str]:
    """Yield passages of as many paragraphs as fit. Each begins with the last short paragraphs of the one before."""
    current: deque[str] = deque()
    length = 0  # of the passage and a blank line after it
    for paragraph in paragraphs:
        if current and length + len(paragraph) > PASSAGE_CHARS:
            yield "\n\n".join(current)
            while current and (length - 2 > OVERLAP_CHARS or length + len(paragraph) > PASSAGE_CHARS):
                length -= len(current.popleft()) + 2
        current.append(paragraph)
        length += len(paragraph) + 2
    if current:
        yield "\n\n".join(current)


def _document(file: Path, title: str) -> Iterator[Passage]:
    try:
        data = read_bounded(file, max_bytes=DOCUMENT_BYTES)
    except OSError as error:
        raise DataError(f"{file}: cannot be read: {error.strerror}") from error
    if _is(file, HTML):
        data = _decoded(data, file).encode() or b" "  # an empty page is no broken one
    text = _converted(data, file) if _is(file, (*CONVERTED, *HTML)) else _decoded(data, file)
    yield from split(text, title, headings=not _is(file, TEXT))


def _decoded(data: bytes, file: Path) -> str:
    encoding = "utf-16" if data.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8-sig"
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        raise DataError(
            f"{file}: not a text in UTF-8 (byte {error.start:,} is 0x{data[error.start]:02x}); save it as "
            "UTF-8, or move it out of the corpus"
        ) from None
    return text.replace("\0", "\ufffd")


def _converted(data: bytes, file: Path) -> str:
    converter = Converter(cpu_s=CONVERTING_S, wall_s=4.0 * CONVERTING_S)
    try:
        text = asyncio.run(converter.text(data, str(file), max_chars=DOCUMENT_CHARS, links=not _is(file, HTML)))
    except ToolError as error:
        raise DataError(f"{error}; repair it, or move it out of the corpus") from None
    if len(text) > DOCUMENT_CHARS:
        raise DataError(f"{file}: holds more than {DOCUMENT_CHARS:,} characters; split it")
    return text if _is(file, (".docx", *HTML)) else text.partition("\n")[2]  # the first line counts the pages


def _is(file: Path, suffixes: tuple[str, ...]) -> bool:
    return file.name.lower().endswith(suffixes)


def _name(file: Path, directory: Path) -> str:
    return file.relative_to(directory).as_posix()


def _title(file: Path, directory: Path) -> str:
    return os.fsencode(_name(file, directory)).decode(errors="replace")
