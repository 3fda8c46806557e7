"""Convert a file's bytes to the requested piece of its text."""

from collections.abc import Iterable, Iterator

from kinds import Refused, kind_of

MAX_DEPTH = 2
"""The deepest nesting of archives: a member may be an archive, but a member of that may not."""


def text_of(pieces: Iterable[str], start: int, max_chars: int) -> str:
    """Return characters `start` to `start + max_chars`, and a line that says if there are more. Raises Refused."""
    text, more = _cut(pieces, start, max_chars)
    if start and not text:
        raise Refused(f"start={start} is behind its end")
    if more:
        end = start + len(text)
        text += f"\n\n[cut: characters {start:,} to {end:,} are shown; start={end} goes on]"
    return text


def pieces_of(data: bytes, name: str, part: str, *, links: bool = True, depth: int = 0) -> Iterator[str]:
    """Yield the text lazily in pieces, so that of a thousand pages only the shown ones are read. Raises Refused.

    `links`: keep the links and pictures of HTML.
    """
    if not data and not depth:
        raise Refused("it is empty (0 bytes)")
    kind = kind_of(data, name)
    if kind == "ole":
        raise Refused(
            "it is an old or an encrypted Office file (OLE); save it as docx, xlsx or pptx, without a password"
        )
    if kind in ("zip", "tar", "gzip"):
        import archives

        if part and depth >= MAX_DEPTH:
            raise Refused("archives in archives are opened no deeper")
        found = archives.read(data, name, part, kind)
        if not isinstance(found, tuple):
            return found
        return pieces_of(found[1], found[0], "", links=links, depth=depth + 1)
    if kind == "xlsx" or kind == "csv":
        import tables

        return tables.xlsx(data, part) if kind == "xlsx" else tables.csv_rows(data, name, part)
    if kind == "image":
        import images

        return images.facts(data, part)
    import documents

    if kind == "html":
        return documents.html(data, part, links=links)
    return documents.READERS[kind](data, part)


def _cut(pieces: Iterable[str], start: int, max_chars: int) -> tuple[str, bool]:
    """Return at most `max_chars` characters from `start` on, and whether there are more."""
    kept: list[str] = []
    passed = taken = 0
    for piece in pieces:
        skip = max(0, start - passed)
        passed += len(piece)
        kept.append(piece[skip : skip + max_chars - taken + 1])
        taken += len(kept[-1])
        if taken > max_chars:
            break
    text = "".join(kept)
    return text[:max_chars], len(text) > max_chars
