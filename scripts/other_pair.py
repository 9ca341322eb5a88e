"""Known answers and the core of the tests on the other pair of Python and jax: `make other-pair`.

The pairs are Python 3.12 with jax 0.11 and Python 3.11 with jax 0.10, as `constraints.txt` has them. This looks for a
Python of the other pair, and runs two targets of the Makefile in an environment of that Python. Without such a Python
it says so, and ends well.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
ENVIRONMENT = ".venv-pair"
TARGETS = ("known-answers", "test-core")
OTHER = "3.12" if sys.version_info[:2] < (3, 12) else "3.11"


def main() -> int:
    """Runs the targets there, and returns their exit status."""
    search = ["sh", "scripts/find_python.sh", OTHER]
    python = subprocess.run(search, cwd=ROOT, capture_output=True, text=True, check=False).stdout.strip()
    if not python:
        print(f"no Python {OTHER} runs here, so its pair is left out")
        return 0
    make = ["make", f"VENV={ENVIRONMENT}", f"PYTHON={python}", *TARGETS]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run(make, cwd=ROOT, env=environment, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
