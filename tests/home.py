"""A home of its own for a test; compiled programs and the records of the machine are those of the whole run."""

from __future__ import annotations

import json
import os
from pathlib import Path

SHARED = ("programs", "machines")  # `programs` is the folder in TOPGRAFT_TEST_PROGRAMS, and the others lie beside it
# the embedded MiniLM, whose precision no test proposes by its measured speed, since another machine's is another
MINILM = "bbf4d138d3373370ac0ad78d29521f3fb103868b4f13ea2a7a981dd85dba36d8"


def linked(home: Path) -> Path:
    """Makes the home, with links to what the run shares."""
    home.mkdir(parents=True, exist_ok=True)
    for name in SHARED if "TOPGRAFT_TEST_PROGRAMS" in os.environ else ():
        folder = Path(os.environ["TOPGRAFT_TEST_PROGRAMS"]).with_name(name)
        folder.mkdir(parents=True, exist_ok=True)
        if not (home / name).exists():
            (home / name).symlink_to(folder)
    record = home / "precisions" / f"{MINILM[:24]}.json"
    if not record.exists():
        record.parent.mkdir(exist_ok=True)
        choice = {"schema": 1, "weights_id": f"sha256:{MINILM}", "precision": "float32", "reason": "tests"}
        record.write_text(json.dumps(choice))
    return home
