"""Extract the content of a web page as Markdown, without the surrounding layout."""

import logging

from trafilatura import extract, html2txt

FEW_CHARS = 200
"""Characters below which an extract may have missed the content; then the page's whole text is considered, too."""


def markdown(data: bytes, url: str) -> str:
    """Return the Markdown of a page in UTF-8; "" if it has no text. `url`: the page's address, for relative links."""
    logging.disable(logging.CRITICAL)  # of a page without content the extractor complains on stderr
    text = data.decode(errors="replace")
    content = str(
        extract(text, url=url, output_format="markdown", include_links=True, include_tables=True, favor_recall=True)
        or ""
    )
    if len(content) >= FEW_CHARS:
        return content
    whole = str(html2txt(text) or "")
    return whole if len(whole) > 2 * len(content) else content
