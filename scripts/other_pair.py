"""The known answers on the other supported pair of Python and jax: `make known-answers`.

The pairs are Python 3.11 with jax 0.10 and Python 3.12 with jax 0.11, as `constraints.txt` has them. This looks for a
Python of the other pair that runs, makes a small environment in `.venv-pair`, and runs the known answers there. Without
such a Python it says so, and ends well.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
ENVIRONMENT = ROOT / ".venv-pair"
PACKAGES = ("jax", "jaxlib", "numpy", "ml_dtypes")
OTHER = (3, 12) if sys.version_info[:2] < (3, 12) else (3, 11)
NAME = ".".join(map(str, OTHER))
# importing `backbone` sets the flag that the jaxlib needs
KNOWN_ANSWERS = "import backbone, runpy; runpy.run_module('metering.known_answers', run_name='__main__')"


def candidates() -> Iterator[str]:
    """Yields what may be that Python: of the path, of uv, and of pyenv, whose shims exist without running."""
    for folder in os.environ.get("PATH", "").split(os.pathsep):
        if python := shutil.which(f"python{NAME}", path=folder):
            yield python
    if uv := shutil.which("uv"):
        yield _said(uv, "python", "find", "--no-python-downloads", NAME)
    if pyenv := shutil.which("pyenv"):
        for name in reversed(_said(pyenv, "versions", "--bare").split()):
            if name.startswith(f"{NAME}."):
                yield str(Path(_said(pyenv, "prefix", name)) / "bin" / "python")


def _said(*words: str) -> str:
    return subprocess.run(words, capture_output=True, text=True, check=False).stdout.strip()


def runs(python: str) -> bool:
    """Returns whether it is the Python that is wanted."""
    words = [python, "-c", f"import sys; sys.exit(sys.version_info[:2] != {OTHER})"]
    try:
        return subprocess.run(words, capture_output=True, check=False).returncode == 0
    except OSError:
        return False


def main() -> int:
    """Runs the known answers there, and returns their exit status."""
    python = next(filter(runs, candidates()), None)
    if python is None:
        print(f"known answers: no Python {NAME} runs here, so its pair is left out")
        return 0
    inside = str(ENVIRONMENT / "bin" / "python")
    if not runs(inside):
        subprocess.run([python, "-m", "venv", "--clear", str(ENVIRONMENT)], check=True)
    install = [inside, "-m", "pip", "install", "--quiet", "--constraint", str(ROOT / "constraints.txt"), *PACKAGES]
    subprocess.run(install, check=True)
    environment = {name: value for name, value in os.environ.items() if name not in ("XLA_FLAGS", "PYTHONPATH")}
    words = [inside, "-c", KNOWN_ANSWERS]
    done = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    lines = done.stdout.splitlines()
    print("\n".join(lines[-1:] if done.returncode == 0 else [*lines, done.stderr]))
    return done.returncode


if __name__ == "__main__":
    sys.exit(main())
