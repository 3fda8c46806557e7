"""The file inspector: real files of every kind, and hostile ones."""

import gzip
import io
import json
import random
import tarfile
import zipfile
from collections.abc import Awaitable, Callable
from pathlib import Path

import openpyxl
import pytest
from builders import docx, make_task, paragraph, pdf, zipped
from PIL import Image
from pptx import Presentation

from lzero.agent.calling import CallContext
from lzero.config import load_config
from lzero.errors import ConfigError, ToolError
from lzero.tools import converter as converter_module
from lzero.tools.catalog import open_tool
from lzero.tools.converter import Converter
from lzero.tools.inspect_file import make_inspect_file

pytestmark = pytest.mark.integration
TASK = make_task()
THREE_PAGES = pdf("Liri was founded by Titu.", "Kato is a rival.", "The end.")


def reader(files: dict[str, bytes]) -> Callable[[str], Awaitable[bytes]]:
    async def read(path: str) -> bytes:
        if path not in files:
            raise ToolError(f"there is no file {path!r}", fault="agent")
        return files[path]

    return read


async def inspect(data: bytes, name: str = "file", **arguments: str | int) -> str:
    tool = make_inspect_file(Converter(), max_chars=2_000)
    found = await tool.call({"path": name, **arguments}, CallContext(TASK, reader({name: data})))
    assert isinstance(found, str)
    return found


async def refusal(data: bytes, name: str = "file", **arguments: str | int) -> str:
    with pytest.raises(ToolError) as caught:
        await inspect(data, name, **arguments)
    assert caught.value.fault == "agent"
    return str(caught.value)


def workbook() -> bytes:
    book = openpyxl.Workbook()
    book.active.title = "Sales"
    book.active.append(["city", "sum|net"])
    book.active.append(["Liri", 12])
    book.active["B3"] = "=B2*2"
    book.active["D7"] = "far"
    book.create_sheet("Empty")
    out = io.BytesIO()
    book.save(out)
    return out.getvalue()


def picture(width: int, height: int) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (width, height)).save(out, "PNG")
    return out.getvalue()


async def test_a_pdf_is_shown_by_its_pages() -> None:
    assert await inspect(THREE_PAGES, "a.pdf") == (
        "[PDF of 3 pages]\n\n## Page 1\n\nLiri was founded by Titu.\n\n## Page 2\n\nKato is a rival.\n\n## Page 3\n\nThe end.\n"
    )
    assert await inspect(THREE_PAGES, "a.pdf", part="2-3") == (
        "[PDF of 3 pages]\n\n## Page 2\n\nKato is a rival.\n\n## Page 3\n\nThe end.\n"
    )
    assert "Kato" not in await inspect(THREE_PAGES, "a.pdf", part="3")
    assert "page; it may be a picture" in await inspect(pdf(""), "a.pdf")
    assert await refusal(THREE_PAGES, "a.pdf", part="4") == "a.pdf: part='4' is out of range: it has 3 pages"
    assert "write part=" in await refusal(THREE_PAGES, "a.pdf", part="last")


async def test_word_becomes_markdown() -> None:
    table = "<w:tbl><w:tr><w:tc>" + paragraph("a") + "</w:tc><w:tc>" + paragraph("b") + "</w:tc></w:tr></w:tbl>"
    text = await inspect(docx(paragraph("Liri", "Heading1") + paragraph("Founded by Titu.") + table), "a.docx")
    assert text.startswith("# Liri\n\nFounded by Titu.")
    assert "| a | b |" in text


async def test_slides_come_with_their_tables_and_notes() -> None:
    slides = Presentation()
    slide = slides.slides.add_slide(slides.slide_layouts[1])
    slide.shapes.title.text = "Founders"
    slide.placeholders[1].text = "Titu"
    slide.shapes.add_table(1, 2, 0, 0, 100, 100).table.cell(0, 0).text = "cell"
    slide.notes_slide.notes_text_frame.text = "say it loud"
    out = io.BytesIO()
    slides.save(out)
    text = await inspect(out.getvalue(), "a.pptx", part="1")
    assert text.startswith("[presentation of 1 slides]\n\n## Slide 1\n\nFounders\n\nTitu\n\n| cell |")
    assert text.endswith("Notes: say it loud\n")


async def test_a_workbook_keeps_its_cells_places() -> None:
    text = await inspect(workbook(), "a.xlsx", part="A1:D7")
    assert text == (
        "[workbook of 2 sheets: Sales, Empty]\n\n## Sales\n\n|  | A | B | C | D |\n| --- | --- | --- | --- | --- |\n"
        "| 1 | city | sum\\|net |\n| 2 | Liri | 12 |\n| 3 |  | =B2*2 |\n| 7 |  |  |  | far |\n"
    )
    assert (await inspect(workbook(), "a.xlsx", part="Sales!B2")).endswith("|  | B |\n| --- | --- |\n| 2 | 12 |\n")
    assert (await inspect(workbook(), "a.xlsx", part="Empty")).endswith("## Empty\n\n(empty)\n")
    assert "## Sales" in await inspect(workbook(), "a.xlsx")
    assert 'give a sheet, or a range as in part="Sales!A1:F9"' in await refusal(workbook(), "a.xlsx", part="Costs")
    assert "goes backwards" in await refusal(workbook(), "a.xlsx", part="D4:A1")


async def test_tables_of_text_are_shown_by_their_rows() -> None:
    text = await inspect('name;sum\r\nLiri;1\r\n“Kato”;"2\n3"\r\n'.encode(), "a.csv")
    assert text.endswith("| row | name | sum |\n| --- | --- | --- |\n| 2 | Liri | 1 |\n| 3 | “Kato” | 2 3 |\n")
    assert "Liri" not in await inspect(b"a\tb\nLiri\t1\nKato\t2\n", "a.tsv", part="3")


async def test_texts_are_decoded_and_a_guess_says_so() -> None:
    assert await inspect("Łódź\n".encode(), "a.txt") == "Łódź\n"
    assert await inspect("Łódź".encode("utf-16"), "a.txt") == "Łódź"
    russian = await inspect("Основатель города жил здесь и писал свои книги каждый день.".encode("cp1251"), "a.txt")
    assert russian.startswith("[not UTF-8; read as ")
    assert "Основатель города" in russian
    assert await inspect(b'{"b":[1,{"a":null}]}', "a.json") == '{\n "b": [\n  1,\n  {\n   "a": null\n  }\n ]\n}'
    assert await inspect(b'{"b":', "a.json") == ('[not valid JSON: Expecting value: line 1 column 6 (char 5)]\n{"b":')
    page = b"<html><head><style>p{}</style></head><body><h1>Liri</h1><p>by <b>Titu</b></p><script>x()</script></body></html>"
    assert await inspect(page, "page") == "# Liri\n\nby **Titu**"


async def test_an_image_tells_its_size_and_an_archive_its_members() -> None:
    assert (await inspect(picture(30, 20), "a.png")).startswith("[PNG image, 30 × 20 pixels, mode RGB, ")
    archive = zipped({"a.txt": b"Liri", "in/b.pdf": THREE_PAGES, "c.zip": zipped({"d.txt": b"deep"})})
    listing = await inspect(archive, "a.zip")
    assert listing.startswith("[zip archive of 3 members")
    assert "a.txt  4 bytes\n" in listing
    assert await inspect(archive, "a.zip", part="a.txt") == "Liri"
    assert "Kato is a rival." in await inspect(archive, "a.zip", part="in/b.pdf")
    assert "d.txt  4 bytes" in await inspect(archive, "a.zip", part="c.zip")
    assert await refusal(archive, "a.zip", part="no") == "a.zip: there is no member 'no' in it"

    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as tar:
        entry = tarfile.TarInfo("notes/a.txt")
        entry.size = 4
        tar.addfile(entry, io.BytesIO(b"Liri"))
        link = tarfile.TarInfo("passwd")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    assert await inspect(out.getvalue(), "a.tgz") == (
        '[tar archive; part="name" shows a member]\nnotes/a.txt  4 bytes\npasswd  (no regular file)\n'
    )
    assert await inspect(out.getvalue(), "a.tgz", part="notes/a.txt") == "Liri"
    assert "is no regular file" in await refusal(out.getvalue(), "a.tgz", part="passwd")
    assert await inspect(gzip.compress(b"Liri"), "a.txt.gz") == "Liri"


async def test_a_long_text_is_cut_and_says_how_to_go_on() -> None:
    text = "".join(f"{number:04} " for number in range(1_000))
    first = await inspect(text.encode(), "a.txt")
    assert first == f"{text[:2000]}\n\n[cut: characters 0 to 2,000 are shown; start=2000 goes on]"
    assert await inspect(text.encode(), "a.txt", start=4_000) == text[4000:]
    assert await refusal(text.encode(), "a.txt", start=5_000) == "a.txt: start=5000 is behind its end"
    assert "before the beginning" in await refusal(text.encode(), "a.txt", start=-1)


async def test_the_bytes_decide_not_the_name() -> None:
    assert "[PDF of 3 pages]" in await inspect(THREE_PAGES, "report.docx")
    assert (await inspect(picture(3, 2), "a.xlsx")).startswith("[PNG image")
    assert await inspect(b"plain words", "a.pdf") == "plain words"
    assert await inspect(b"plain words", "a.docx") == "plain words"
    for text in (b"BMW is a company.", b"BZhang is a name, and no archive."):
        assert await inspect(text, "notes.txt") == text.decode()
    tar = io.BytesIO()
    with tarfile.open(fileobj=tar, mode="w:bz2") as archive:
        archive.addfile(tarfile.TarInfo("notes/a.txt"), io.BytesIO())
    assert "notes/a.txt" in await inspect(tar.getvalue(), "notes.txt")
    bitmap = io.BytesIO()
    Image.new("RGB", (3, 2)).save(bitmap, "BMP")
    assert (await inspect(bitmap.getvalue(), "notes.txt")).startswith("[BMP image")


@pytest.mark.parametrize(
    ("data", "name", "message"),
    [
        (b"", "a.txt", "it is empty"),
        (bytes(range(256)), "a.bin", "no text and of no known format: 256 bytes that begin with 00 01 02"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(600), "a.doc", "an old or an encrypted Office file"),
        (b"%PDF-1.7\n" + random.Random(0).randbytes(5_000), "a.pdf", "it is broken, or not what it seems"),
        (docx(paragraph("x"))[:-200], "a.docx", "broken or cut short"),
        (docx("<w:p>" * 300), "a.docx", "it is broken, or not what it seems"),
        (zipped({"xl/workbook.xml": b"<workbook/>"}), "a.xlsx", "it is broken, or not what it seems"),
        (b"<div>" * 5_000, "a.html", "it is nested too deep"),
        (picture(3, 2)[:20], "a.png", "it is broken, or not what it seems"),
        (lambda: zipped({"bomb.txt": bytes(64_000_000)}), "a.zip", "is larger than 32,000,000 bytes"),
        (lambda: gzip.compress(bytes(64_000_000)), "a.gz", "is larger than 32,000,000 bytes"),
        (lambda: docx("", more={"word/media/x.bin": bytes(300_000_000)}), "a.docx", "it unpacks to 300,000"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_broken_and_hostile_files_are_refused(data: bytes | Callable[[], bytes], name: str, message: str) -> None:
    """Large ones are made here: every process of the suite imports this module."""
    part = "bomb.txt" if name == "a.zip" else ""
    assert message in await refusal(data if isinstance(data, bytes) else data(), name, part=part)


@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
async def test_a_truncated_pdf_shows_what_is_left_or_is_refused(share: float) -> None:
    try:
        found = await inspect(THREE_PAGES[: int(len(THREE_PAGES) * share)], "a.pdf")
    except ToolError as error:
        found = f"{error.fault}: {error}"
    assert found.startswith(("[PDF of", "agent: a.pdf: it is broken"))


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
async def test_a_billion_laughs_are_not_laughed(encoding: str) -> None:
    entities = '<!ENTITY a0 "ha">' + "".join(f'<!ENTITY a{n} "{f"&a{n - 1};" * 10}">' for n in range(1, 10))
    bomb = f"<!DOCTYPE w:document [{entities}]><x>&a9;</x>".encode(encoding)
    assert "declares a document type" in await refusal(docx("", more={"word/styles.xml": bomb}), "a.docx")


async def test_a_tree_too_great_for_memory_ends_its_process_alone() -> None:
    with pytest.raises(ToolError, match=r"a\.docx: it takes too much memory to read") as caught:
        await Converter(memory_bytes=150_000_000).text(docx(paragraph("x" * 10) * 200_000), "a.docx")
    assert caught.value.fault == "agent"


async def test_a_csv_of_a_million_cells_is_shown_in_part() -> None:
    data = b"a,b,c,d,e,f,g,h,i,j\n" + b"0,1,2,3,4,5,6,7,8,9\n" * 100_000
    text = await inspect(data, "a.csv")
    assert text.startswith("[100,001 rows of up to 10 columns")
    assert text.endswith("start=2000 goes on]")
    assert "| 100001 | 0 | 1 |" in await inspect(data, "a.csv", part="100000-100001")


async def test_a_sheet_that_lies_about_its_size_costs_nothing() -> None:
    sheet = b"""<worksheet xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main"><dimension ref="A1:XFD1048576"/>
      <sheetData><row r="1"><c r="A1"><v>7</v></c><c r="XFD1"><v>8</v></c></row></sheetData></worksheet>"""
    with io.BytesIO(workbook()) as file, zipfile.ZipFile(file) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    text = await inspect(zipped({**members, "xl/worksheets/sheet1.xml": sheet}), "a.xlsx", part="Sales")
    assert "| 1 | 7 |" in text
    assert "columns after AX are left out" in text


async def test_a_document_gets_nothing_from_this_machine(tmp_path: Path) -> None:
    secret = tmp_path / "secret.png"
    secret.write_bytes(picture(2, 2))
    relation = "http://schemas.openxmlformats.org/officeDocument/2006/relationships/image"
    for target in (secret.as_uri(), "http://127.0.0.1:1/x.png"):
        relations = (
            '<Relationships xmlns="http://schemas.openxmlformats.org/package/2006/relationships">'
            f'<Relationship Id="r9" Type="{relation}" Target="{target}" TargetMode="External"/></Relationships>'
        )
        image = (
            '<w:p><w:r><w:drawing><wp:inline xmlns:wp="http://schemas.openxmlformats.org/drawingml/2006/wordprocessingDrawing">'
            '<a:graphic xmlns:a="http://schemas.openxmlformats.org/drawingml/2006/main"><a:graphicData>'
            '<pic:pic xmlns:pic="http://schemas.openxmlformats.org/drawingml/2006/picture"><pic:blipFill>'
            '<a:blip xmlns:r="http://schemas.openxmlformats.org/officeDocument/2006/relationships" r:link="rId9"/>'
            "</pic:blipFill></pic:pic></a:graphicData></a:graphic></wp:inline></w:drawing></w:r></w:p>"
        ).replace("rId9", "r9")
        text = await inspect(docx(paragraph("Liri") + image, relations=relations), "a.docx")
        assert text.startswith("Liri")


async def test_a_file_that_is_not_there_is_the_agents_fault() -> None:
    with pytest.raises(ToolError, match=r"there is no file 'b\.txt'") as caught:
        await make_inspect_file(Converter()).call({"path": "b.txt"}, CallContext(TASK, reader({})))
    assert caught.value.fault == "agent"


def test_a_missing_library_is_told_before_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(converter_module, "LIBRARIES", ("PIL", "no_such_library"))
    with pytest.raises(ConfigError, match=r"pip install 'lzero\[files\]' \(no_such_library cannot be imported\)"):
        Converter()


def test_the_tool_describes_itself() -> None:
    tool = open_tool("inspect_file", load_config())
    assert (tool.name, tool.parameters) == ("inspect_file", ("path", "part", "start"))
    assert tool.description.startswith("inspect_file(path: str, part: str = '', start: int = 0) -> str\n")
    assert json.dumps(tool.description)
