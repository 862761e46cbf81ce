"""A figure's SVG as part of the page: it takes the page's colours, width and names."""

from __future__ import annotations

import re
from html import escape

from analysis.figures.canvas import FAINT, INK, MUTED

#: Of a figure's lines and words, what follows the page from light to dark.
COLOURS = {INK: "currentColor", MUTED: "var(--muted)", FAINT: "var(--line)"}


def inline(svg: str, name: str, title: str, caption: str) -> str:
    """An SVG document as an element for HTML.

    name: stands before every id, as several figures share one document. title, caption: what a screen reader says.
    """
    body = svg[svg.index("<svg") :]
    for left_out in (r"<metadata>.*?</metadata>", r"<style.*?</style>", r"<!--.*?-->"):
        body = re.sub(left_out, "", body, flags=re.DOTALL)
    body = re.sub(r'(<image\b[^>]*?) id="[^"]*"', r"\1", body)  # equal images have equal ids, and none is referred to
    body = re.sub(r'\bid="', f'id="{name}-', body)
    body = re.sub(r'(href="#|url\(#)', rf"\g<1>{name}-", body)
    for drawn, shown in COLOURS.items():
        body = re.sub(drawn, shown, body, flags=re.IGNORECASE)
    size = re.search(r'viewBox="[^"]*"', body)
    assert size
    head = f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" {size[0]} role="img"'
    told = f'<title id="{name}-title">{escape(title)}</title><desc id="{name}-desc">{escape(caption)}</desc>'
    return f'{head} aria-labelledby="{name}-title" aria-describedby="{name}-desc">{told}{body[body.index(">") + 1 :]}'
