"""The content of a web page as Markdown, without what stands around it."""

import logging

from trafilatura import extract, html2txt

FEW_CHARS = 200
"""An extract shorter than this may have missed the content; then the page's whole text is looked at too."""


def markdown(data: bytes, url: str) -> str:
    """The Markdown of a page in UTF-8; its links are made whole by the `url` it came from. Empty where it holds no text."""
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
