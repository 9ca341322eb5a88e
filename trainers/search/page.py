"""`search.html`: the points of a search in one offline file; the plot, the table and the details follow a click.

`page.html` beside this file is the page without its data.
"""

from __future__ import annotations

import json
from pathlib import Path

from backbone.console.page import STYLE
from backbone.records import encode
from trainers.search.result import SearchResult

TEMPLATE = Path(__file__).parent / "page.html"


def write_page(result: SearchResult) -> Path:
    """Writes the page from a result; it needs no network and no other file."""
    values = encode(result) | {"paid_back": {one.id: result.paid_back(one) for one in result.candidates}}
    data = json.dumps(values, ensure_ascii=False).replace("<", "\\u003c")  # no parser of HTML ends it early
    page = TEMPLATE.read_text(encoding="utf-8").replace("/* STYLE */", STYLE).replace("/* DATA */", data)
    path = Path(result.page)
    path.write_text(page, encoding="utf-8")
    return path
