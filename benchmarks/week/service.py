"""The server of a week, and its successors: replaced under load, or killed."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.results import ROOT

START_SECONDS = 300.0  # until a server is ready
POLL_SECONDS = 0.5


def cpu_seconds_of(process: subprocess.Popen[bytes]) -> float:
    """Returns the CPU seconds of a process that lives; 0 where the system does not say, or it is dead."""
    try:
        fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")  # user and system


class Service:
    """One server process after the other."""

    def __init__(self, folder: Path, words: Sequence[str], environment: Mapping[str, str]):
        self._log, self._words, self._environment = folder / "serve.log", list(words), dict(environment)
        self._process: subprocess.Popen[bytes] | None = None
        self.url = ("127.0.0.1", 0)
        self.spent = 0.0  # CPU seconds of servers that ended

    @property
    def cpu_seconds(self) -> float:
        """Returns the CPU seconds of all servers so far."""
        return self.spent + (cpu_seconds_of(self._process) if self._process is not None else 0.0)

    def replace(self, backbone: Path, on_ready: Callable[[tuple[str, int]], None]) -> None:
        """Starts a server; once it is ready, calls `on_ready` and ends the former one, which has to end with 0."""
        former = self._process
        process, self.url = self._started(backbone)
        on_ready(self.url)
        self.spent, self._process = self.cpu_seconds, process
        if former is not None and former.poll() is None:
            former.send_signal(signal.SIGTERM)
            if status := former.wait(120):
                raise RuntimeError(f"the server ended with {status}: {self._log.read_text()[-2000:]}")

    def kill(self) -> None:
        """Kills the server at once."""
        if self._process is not None:
            self.spent = self.cpu_seconds
            self._process.kill()
            self._process.wait()
            self._process = None

    def _started(self, backbone: Path) -> tuple[subprocess.Popen[bytes], tuple[str, int]]:
        command = [sys.executable, "-m", "topgraft", "serve", "--backbone", str(backbone), "--port", "0"]
        command += ["--slots", "24", "--labels", "8", "--buckets", "48", "--batch-sizes", "8"]
        command += ["--poll-seconds", str(POLL_SECONDS), *self._words]
        at = self._log.stat().st_size if self._log.exists() else 0
        with self._log.open("ab") as log:
            process = subprocess.Popen(command, cwd=ROOT, env=self._environment, stdout=subprocess.DEVNULL, stderr=log)
        ends = time.monotonic() + START_SECONDS
        while time.monotonic() < ends and process.poll() is None:
            said = self._log.read_bytes()[at:].decode(errors="replace")
            listening = re.search(r"serving on http://([\d.]+):(\d+)", said)
            if listening and self.state((listening[1], int(listening[2])))["ready"]:
                return process, (listening[1], int(listening[2]))
            time.sleep(0.1)
        process.kill()
        raise RuntimeError(f"the server was not ready: {self._log.read_text()[-3000:]}")

    def state(self, url: tuple[str, int] | None = None) -> dict[str, Any]:
        """Returns what the server says of itself."""
        host, port = url or self.url
        try:
            with urllib.request.urlopen(f"http://{host}:{port}/v2/health/ready", timeout=30) as answer:
                return dict(json.load(answer))
        except urllib.error.HTTPError as error:
            return dict(json.load(error))

    def follows(self, word: str, seconds: float = 60.0) -> bool:
        """Returns whether the server comes to say that its catalogue is `word`."""
        ends = time.monotonic() + seconds
        while self.state()["following"] != word:
            if time.monotonic() > ends:
                return False
            time.sleep(0.1)
        return True
