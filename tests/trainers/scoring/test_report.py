"""The report of a run, as a browser reads it."""

from __future__ import annotations

from pathlib import Path

from tests.browser import WIDTHS, needs_chromium, shown
from tests.command import call
from tests.tiny import as_json


@needs_chromium
def test_the_report_opens_in_a_browser(config, capsys, tmp_path):
    status, out, _ = call(
        "train", config, "--set", "plan.stages=geometric(0.4)", "--workdir", "run", "--json", capsys=capsys
    )
    assert status == 0
    page = Path(as_json(out)["report"]).resolve()
    for width in WIDTHS:
        shown(page.as_uri(), tmp_path, width, "report")
