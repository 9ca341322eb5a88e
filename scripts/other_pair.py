"""The known answers on the other supported pair of Python and jax: `make known-answers`.

It looks for a Python 3.12 that runs, makes an environment with jax 0.11 in `.venv-jax011`, and runs the known answers
there. Without such a Python it says so, and ends well.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
ENVIRONMENT = ROOT / ".venv-jax011"
PACKAGES = ("jax==0.11.*", "numpy", "psutil")


def candidates() -> Iterator[str]:
    """Yields what may be a Python 3.12: of the path, and of pyenv."""
    if found := shutil.which("python3.12"):
        yield found
    if pyenv := shutil.which("pyenv"):
        root = subprocess.run([pyenv, "root"], capture_output=True, text=True, check=False).stdout.strip()
        yield from map(str, sorted(Path(root).glob("versions/3.12*/bin/python"), reverse=True))


def runs(python: str) -> bool:
    """Returns whether it is a Python 3.12; pyenv's shims exist without running."""
    words = [python, "-c", "import sys; sys.exit(sys.version_info[:2] != (3, 12))"]
    return subprocess.run(words, capture_output=True, check=False).returncode == 0


def main() -> int:
    python = next(filter(runs, candidates()), None)
    if python is None:
        print("known answers: no Python 3.12 runs here, so the pair Python 3.12 and jax 0.11 is left out")
        return 0
    inside = str(ENVIRONMENT / "bin" / "python")
    if not Path(inside).exists():
        subprocess.run([python, "-m", "venv", str(ENVIRONMENT)], check=True)
    subprocess.run([inside, "-m", "pip", "install", "--quiet", *PACKAGES], check=True)
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    words = [inside, "-m", "metering.known_answers"]
    done = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    lines = done.stdout.splitlines()
    print("\n".join(lines[-1:] if done.returncode == 0 else [*lines, done.stderr]))
    return done.returncode


if __name__ == "__main__":
    sys.exit(main())
