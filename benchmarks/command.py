"""The console command in a child process: what it answers with `--json`, and the CPU seconds of the whole process."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from collections.abc import Collection, Mapping, Sequence
from typing import Any


def answered(
    words: Sequence[str], environment: Mapping[str, str], statuses: Collection[int] = (0,)
) -> tuple[dict[str, Any], float]:
    """Runs `topgraft WORDS --json --quiet`; returns the last object that it prints, and its CPU seconds.

    Raises RuntimeError where it ends with another status than `statuses`.
    """
    command = [sys.executable, "-m", "topgraft", *words, "--json", "--quiet"]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False, env=environment)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    result: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    if done.returncode not in statuses:
        raise RuntimeError(f"{words[0]}: status {done.returncode}: {result}")
    return result, round(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, 2)
