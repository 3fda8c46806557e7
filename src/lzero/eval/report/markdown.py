"""A report as Markdown: the tables of the page. Every cell is escaped, because it may come from an agent."""

import re

from lzero.eval.report.content import Report
from lzero.eval.report.sections import Table, sections
from lzero.text import one_line
from lzero.visible import clean

_SPECIAL = re.compile(r"([\\`*_{}\[\]#|~>@$]|:(?=//)|(?<=www)\.)")
"""Characters that begin something within a line: code, emphasis, links, a cell, mathematics, a person's name, an address."""


def render_markdown(report: Report, *, title: str, version: str) -> str:
    """Return the report. `version`: that of lzero."""
    parts = [f"# {escaped(title)}"]
    for section in sections(report):
        parts.append(f"## {escaped(section.title)}")
        parts += [escaped(section.text)] if section.text else []
        parts += [_table(table) for table in section.tables]
    return "\n\n".join([*parts, f"Made by lzero {escaped(version)}."]) + "\n"


def escaped(text: str) -> str:
    """Return text on one line in which no character means anything to Markdown or HTML."""
    line = one_line(clean(text)).replace("&", "&amp;").replace("<", "&lt;")
    return _SPECIAL.sub(r"\\\1", line)


def _table(table: Table) -> str:
    rules = tuple("---" if index < table.names else "---:" for index in range(len(table.head)))
    rows = [tuple(map(escaped, row)) for row in (table.head, *table.rows)]
    return "\n".join(f"| {' | '.join(row)} |" for row in (rows[0], rules, *rows[1:]))
