"""Recognise a file's kind by its first bytes; its name only distinguishes kinds of text."""

import zipfile
from io import BytesIO

MAGIC = (
    (b"%PDF-", "pdf"),
    (b"\x89PNG\r\n\x1a\n", "image"),
    (b"\xff\xd8\xff", "image"),
    (b"GIF8", "image"),
    (b"II*\0", "image"),
    (b"MM\0*", "image"),
    (b"\x1f\x8b", "gzip"),
    (b"\xfd7zXZ\0", "tar"),
    (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "ole"),
)
OFFICE = {"word/document.xml": "docx", "xl/workbook.xml": "xlsx", "ppt/presentation.xml": "pptx"}
TEXTS = {
    ".csv": "csv",
    ".tsv": "csv",
    ".json": "json",
    ".ipynb": "json",
    ".html": "html",
    ".htm": "html",
    ".xhtml": "html",
}


class Refused(Exception):
    """This file, or this part of it, cannot be shown; the message gives the reason and the possible requests."""


def kind_of(data: bytes, name: str) -> str:
    if data.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        return _zip_kind(data)
    if data[257:262] == b"ustar":
        return "tar"
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "image"
    if b"%PDF-" in data[:1024] and not data[:1024].lstrip().startswith(b"<"):
        return "pdf"
    if data.startswith(b"BM") and data[6:10] == bytes(4):  # a text may begin with two letters
        return "image"
    if data.startswith(b"BZh") and data[4:10] in (b"1AY&SY", b"\x17rE8P\x90"):
        return "tar"
    for magic, kind in MAGIC:
        if data.startswith(magic):
            return kind
    suffix = "." + name.lower().rpartition(".")[2]
    if suffix not in TEXTS and data[:512].lstrip().lower().startswith((b"<!doctype html", b"<html")):
        return "html"
    return TEXTS.get(suffix, "text")


def pages(part: str, total: int, what: str) -> range:
    """Return the indices of `part` ("3", "3-5", or "" for all) of `total` pages, slides or rows counted from 1."""
    if not part:
        return range(total)
    first, dash, last = (piece.strip() for piece in part.partition("-"))
    if not (first.isdecimal() and (last.isdecimal() or not last)):
        raise Refused(f'part={part!r} names no {what}: write part="3" or part="3-5"')
    begin = int(first)
    end = int(last) if last else total if dash else begin
    if not 1 <= begin <= min(end, total):
        raise Refused(f"part={part!r} is out of range: it has {total:,} {what}")
    return range(begin - 1, min(end, total))


def _zip_kind(data: bytes) -> str:
    try:
        with zipfile.ZipFile(BytesIO(data)) as archive:
            names = set(archive.namelist())
    except zipfile.BadZipFile as error:
        raise Refused(f"it begins as a zip file but is broken or cut short ({error})") from None
    return next((kind for member, kind in OFFICE.items() if member in names), "zip")
