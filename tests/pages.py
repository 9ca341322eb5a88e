"""HTML pages as a parser reads them."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from html.parser import HTMLParser


def well_formed(page: str) -> None:
    """Every element that must be closed is, and every picture is XML."""
    opened: list[str] = []

    class Parser(HTMLParser):
        def handle_starttag(self, tag, attributes):
            if tag not in ("meta", "rect", "line", "circle", "polyline", "br", "wbr"):
                opened.append(tag)

        def handle_endtag(self, tag):
            if tag in ("rect", "line", "circle", "polyline"):
                return
            while opened and opened[-1] != tag and opened[-1] in ("p", "td", "th", "tr", "rect"):
                opened.pop()
            assert opened.pop() == tag

    Parser().feed(page)
    pictures = re.findall(r"<svg.*?</svg>", page, re.DOTALL)
    assert len(pictures) == 2
    for picture in pictures:
        ET.fromstring(picture)
