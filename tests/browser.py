"""Pages in headless Chromium at two widths: their document, their picture, and whether they scroll sideways.

    TOPGRAFT_PICTURES=pictures python -m pytest tests -k browser     # keeps NAME-WIDTH.png of every page

A page is shown in a frame of exactly the width, since windows of Chromium have a least width of their own.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

WIDTHS = (1280, 400)  # pixels of a desk and of a telephone
HEIGHT = 2400
PATIENCE = 120.0  # seconds
needs_chromium = pytest.mark.skipif(not shutil.which("chromium"), reason="no Chromium on this machine")

HOST = """<!doctype html><meta charset=utf-8><body style="margin:0">
<iframe src="{url}" style="width:{width}px;height:{height}px;border:0"></iframe><script>
const frame = document.querySelector('iframe');
function measure() {{
  const root = frame.contentDocument.documentElement;
  const wide = [...frame.contentDocument.querySelectorAll('body *')].filter(
    one => one.getBoundingClientRect().right > root.clientWidth + 1).map(one => one.tagName);
  document.body.dataset.width = root.scrollWidth;
  document.body.dataset.window = root.clientWidth;
  document.body.dataset.wide = wide.slice(0, 9).join(' ');
}}
frame.onload = () => {{ measure(); setInterval(measure, 500); }};
</script></body>"""


def shown(url: str, folder: Path, width: int, name: str) -> None:
    """Shows a page at a width; raises AssertionError where the page is wider."""
    host = folder / f"{name}-{width}.html"
    host.write_text(HOST.format(url=url, width=width, height=HEIGHT))
    common = [
        *("chromium", "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"),
        *("--disable-web-security", "--allow-file-access-from-files", "--virtual-time-budget=8000"),
        *("--hide-scrollbars", f"--window-size={max(width, 500)},{HEIGHT}"),
        f"--user-data-dir={folder / f'profile-{name}-{width}'}",
    ]

    def run(*words: str) -> str:
        done = subprocess.run([*common, *words, host.as_uri()], check=True, capture_output=True, timeout=PATIENCE)
        return done.stdout.decode()

    body = re.search(r"<body[^>]*>", run("--dump-dom"))[0]
    measured = {key: int(re.search(rf'data-{key}="(\d+)"', body)[1]) for key in ("width", "window")}
    if pictures := os.environ.get("TOPGRAFT_PICTURES"):
        Path(pictures).mkdir(parents=True, exist_ok=True)
        run(f"--screenshot={Path(pictures).resolve() / f'{name}-{width}.png'}")
    assert measured["window"] == width
    assert measured["width"] <= width, f"{name} is {measured['width']} wide at {width}: {body}"
