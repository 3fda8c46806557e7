"""Convert documents and plain text to Markdown."""

import json
import zipfile
from collections.abc import Callable, Iterator
from io import BytesIO
from typing import Any

from kinds import Refused, pages

OFFICE_BYTES = 256_000_000
"""The most bytes of an Office file's members together, unpacked."""
GUESSED_BYTES = 65_536
"""Bytes of a text that is not UTF-8 from which its encoding is guessed."""
MAX_GROUP_DEPTH = 8
UNSEEN = ("script", "style", "template", "noscript", "svg")


def pdf(data: bytes, part: str) -> Iterator[str]:
    from pypdf import PdfReader

    reader = PdfReader(BytesIO(data))
    if reader.is_encrypted and not reader.decrypt(""):
        raise Refused("it is a PDF with a password")
    total = len(reader.pages)
    chosen = pages(part, total, "pages")
    yield f"[PDF of {total:,} pages]\n"
    for index in chosen:
        text = reader.pages[index].extract_text().strip()
        yield f"\n## Page {index + 1}\n\n{text or '(no text on this page; it may be a picture)'}\n"


def docx(data: bytes, part: str) -> Iterator[str]:
    import mammoth

    _no_part(part)
    check_office(data)
    picture = mammoth.images.img_element(lambda image: {"src": "picture"})
    yield markdown(mammoth.convert_to_html(BytesIO(data), convert_image=picture).value)


def pptx(data: bytes, part: str) -> Iterator[str]:
    from pptx import Presentation

    check_office(data)
    slides = Presentation(BytesIO(data)).slides
    chosen = pages(part, len(slides), "slides")
    yield f"[presentation of {len(slides):,} slides]\n"
    for index in chosen:
        slide = slides[index]
        blocks = [f"\n## Slide {index + 1}", *_shapes(slide.shapes, 0)]
        if slide.has_notes_slide and slide.notes_slide.notes_text_frame is not None:
            blocks.append(f"Notes: {slide.notes_slide.notes_text_frame.text}")
        yield "\n\n".join(blocks) + "\n"


def html(data: bytes, part: str, *, links: bool = True) -> Iterator[str]:
    _no_part(part)
    text, note = decoded(data)
    yield note + markdown(text, links=links)


def json_text(data: bytes, part: str) -> Iterator[str]:
    """Yield JSON with one line per value, so that a one-line file is readable; invalid JSON unchanged, with a note."""
    _no_part(part)
    text, note = decoded(data)
    try:
        yield note + json.dumps(json.loads(text), ensure_ascii=False, indent=1)
    except (ValueError, RecursionError) as error:
        yield f"[not valid JSON: {str(error)[:100]}]\n{note}{text}"


def plain(data: bytes, part: str) -> Iterator[str]:
    _no_part(part)
    text, note = decoded(data)
    yield note + text


READERS: dict[str, Callable[[bytes, str], Iterator[str]]] = {
    "pdf": pdf,
    "docx": docx,
    "pptx": pptx,
    "json": json_text,
    "text": plain,
}


def decoded(data: bytes) -> tuple[str, str]:
    """Return a text, and a note if its encoding is a guess. Raises Refused for data that is not text."""
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        return data.decode("utf-16", "replace"), ""
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return _guessed(data)
    if "\0" in text:
        raise Refused(f"it is no text and of no known format: {len(data):,} bytes that begin with {data[:16].hex(' ')}")
    return text, ""


def markdown(source: str, *, links: bool = True) -> str:
    """Return HTML as Markdown; without `links`, only the text of links, and no pictures."""
    from bs4 import BeautifulSoup
    from markdownify import MarkdownConverter

    soup = BeautifulSoup(source, "html.parser")
    for tag in soup(UNSEEN):
        tag.decompose()
    for image in soup("img"):
        if str(image.get("src", "")).startswith("data:"):
            image["src"] = "data"
    converted: str = MarkdownConverter(heading_style="ATX", strip=None if links else ["a", "img"]).convert_soup(soup)
    return converted.strip()


def check_office(data: bytes) -> None:
    """Refuse an archive that unpacks to too much, and XML with a document type: Office files have none, and XML bombs need one."""
    with zipfile.ZipFile(BytesIO(data)) as archive:
        members = archive.infolist()
        size = sum(member.file_size for member in members)
        if size > OFFICE_BYTES:
            raise Refused(f"it unpacks to {size:,} bytes; at most {OFFICE_BYTES:,} are read")
        for member in members:
            if member.filename.lower().endswith((".xml", ".rels", ".vml")):
                head = archive.read(member).replace(b"\0", b"")  # UTF-16 as well
                if b"<!DOCTYPE" in head or b"<!ENTITY" in head:
                    raise Refused(f"{member.filename!r} in it declares a document type, which no Office file does")


def _guessed(data: bytes) -> tuple[str, str]:
    from charset_normalizer import from_bytes

    best = None if b"\0" in data[:GUESSED_BYTES] else from_bytes(data[:GUESSED_BYTES]).best()
    if best is None:
        raise Refused(f"it is no text and of no known format: {len(data):,} bytes that begin with {data[:16].hex(' ')}")
    return data.decode(best.encoding, "replace"), f"[not UTF-8; read as {best.encoding}, which is a guess]\n"


def _shapes(shapes: Any, depth: int) -> Iterator[str]:
    from pptx.shapes.picture import Picture

    for shape in shapes:
        if shape.has_text_frame and shape.text_frame.text.strip():
            yield shape.text_frame.text
        elif getattr(shape, "has_table", False) and shape.has_table:
            yield "\n".join("| " + " | ".join(cell.text for cell in row.cells) + " |" for row in shape.table.rows)
        elif hasattr(shape, "shapes") and depth < MAX_GROUP_DEPTH:
            yield from _shapes(shape.shapes, depth + 1)
        elif isinstance(shape, Picture):
            yield f"(picture {shape.name})"


def _no_part(part: str) -> None:
    if part:
        raise Refused("it has no pages, sheets or members to name by `part`; `start` goes on in a long text")
