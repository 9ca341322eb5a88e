"""The report of a run, as a browser reads it."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.command import call
from tests.tiny import as_json


@pytest.mark.skipif(not shutil.which("chromium"), reason="no Chromium on this machine")
def test_the_report_opens_in_a_browser(config, capsys, tmp_path):
    status, out, _ = call(
        "train", config, "--set", "plan.stages=geometric(0.4)", "--workdir", "run", "--json", capsys=capsys
    )
    assert status == 0
    page = Path(as_json(out)["report"]).resolve()
    command = [
        "chromium", "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking",
        f"--user-data-dir={tmp_path / 'profile'}", "--window-size=1000,2400", f"--screenshot={tmp_path / 'page.png'}",
        page.as_uri(),
    ]  # fmt: skip
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    assert (tmp_path / "page.png").stat().st_size > 20_000
