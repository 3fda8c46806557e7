"""Convert spreadsheets and CSV to Markdown tables of bounded width."""

import csv
import re
from collections.abc import Iterable, Iterator
from io import BytesIO, StringIO
from typing import Any

from documents import check_office, decoded
from kinds import Refused, pages

MAX_COLUMNS = 50
"""Number of columns that are shown unless a range asks for others."""
MAX_CELL_CHARS = 500
MAX_SHEETS = 100
_RANGE = re.compile(r"\$?([A-Za-z]{1,3})\$?(\d{1,7})(?::\$?([A-Za-z]{1,3})\$?(\d{1,7}))?")


def csv_rows(data: bytes, name: str, part: str) -> Iterator[str]:
    text, note = decoded(data)
    delimiter = "\t" if name.lower().endswith(".tsv") else _delimiter(text)
    csv.field_size_limit(len(text) + 1)
    rows = list(csv.reader(StringIO(text, newline=""), delimiter=delimiter))
    if not rows:
        raise Refused("it has no rows")
    width = max(map(len, rows))
    chosen = pages(part, len(rows), "rows")
    yield f"{note}[{len(rows):,} rows of up to {width:,} columns; row 1 is the header here]\n\n"
    yield _line(["row", *rows[0][:MAX_COLUMNS]]) + _line(["---"] * (1 + min(len(rows[0]), MAX_COLUMNS)))
    for index in chosen:
        if index:
            yield _line([str(index + 1), *rows[index][:MAX_COLUMNS]])
    if width > MAX_COLUMNS:
        yield f"\n[columns after {MAX_COLUMNS} are left out; read the file with pandas for them]\n"


def xlsx(data: bytes, part: str) -> Iterator[str]:
    from openpyxl import load_workbook

    check_office(data)
    values = load_workbook(BytesIO(data), read_only=True, data_only=True, keep_links=False)
    formulas = load_workbook(BytesIO(data), read_only=True, keep_links=False)
    sheets = {sheet.title: sheet for sheet in values.worksheets[:MAX_SHEETS]}
    names, area = _chosen(list(sheets), part)
    yield f"[workbook of {len(values.worksheets)} sheets: {', '.join(sheets)}]\n"
    for name in names:
        yield f"\n## {name}\n\n"
        yield from _sheet(sheets[name], formulas[name], area)


def _sheet(values: Any, formulas: Any, area: tuple[int, int, int, int | None]) -> Iterator[str]:
    """Yield the rows that are not empty. A formula without a computed value is shown as the formula."""
    from openpyxl.utils import get_column_letter

    left, top, right, bottom = area
    bounds = {"min_col": left, "min_row": top, "max_col": right if bottom else None, "max_row": bottom}
    for sheet in (values, formulas):
        sheet.reset_dimensions()  # the size in the file may be wrong by any factor
    header, wider = False, False
    both = zip(values.iter_rows(**bounds), formulas.iter_rows(**bounds), strict=False)
    for number, (row, written) in enumerate(both, start=top):
        cells = [
            ""
            if value.value is None and formula.value is None
            else str(formula.value if value.value is None else value.value)
            for value, formula in zip(row, written, strict=False)
        ]
        while cells and not cells[-1]:
            cells.pop()
        wider = wider or len(cells) > right - left + 1
        if not cells:
            continue
        if not header:
            header = True
            letters = [get_column_letter(column) for column in range(left, right + 1)]
            yield _line(["", *letters]) + _line(["---"] * (1 + len(letters)))
        yield _line([str(number), *cells[: right - left + 1]])
    if not header:
        yield "(empty)\n"
    if wider:
        yield f'\n[columns after {get_column_letter(right)} are left out; part="SHEET!A1:Z99" asks for a range]\n'


def _chosen(sheets: list[str], part: str) -> tuple[list[str], tuple[int, int, int, int | None]]:
    """Return the sheets and the (left, top, right, bottom) that `part` names: "", "Sheet", "A1:F9" or "Sheet!A1:F9"."""
    from openpyxl.utils import column_index_from_string

    whole = (1, 1, MAX_COLUMNS, None)
    if not part or part in sheets:
        return ([part] if part else sheets), whole
    name, _, area = part.rpartition("!")
    name = name.strip("'") or sheets[0]
    found = _RANGE.fullmatch(area.strip())
    if name not in sheets or not found:
        raise Refused(f'there is no {part!r} in it: give a sheet, or a range as in part="{sheets[0]}!A1:F9"')
    left, right = (column_index_from_string(found[group] or found[1]) for group in (1, 3))
    top, bottom = int(found[2]), int(found[4] or found[2])
    if not 1 <= top <= bottom or not left <= right < left + 10 * MAX_COLUMNS:
        raise Refused(f"the range {area} goes backwards or is wider than {10 * MAX_COLUMNS} columns")
    return [name], (left, top, right, bottom)


def _delimiter(text: str) -> str:
    """Return the delimiter that is most frequent in the first line."""
    return max(",;\t|", key=text.partition("\n")[0].count)


def _line(cells: Iterable[str]) -> str:
    shown = (cell[:MAX_CELL_CHARS].replace("|", "\\|").replace("\r", "").replace("\n", " ") for cell in cells)
    return f"| {' | '.join(shown)} |\n"
