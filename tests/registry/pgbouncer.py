"""A real PgBouncer in transaction mode, in front of the session's PostgreSQL."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from tests.registry.postgres import Postgres, free_port


def program() -> str | None:
    """The program of this machine; Debian keeps it where only root looks."""
    return shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin")


@contextlib.contextmanager
def pooling(server: Postgres, command: str, connections: int = 3) -> Iterator[int]:
    """A pooler that gives each transaction one of `connections` connections; yields its port."""
    with tempfile.TemporaryDirectory(prefix="topgraft-pgbouncer-") as place:
        port, folder = free_port(), Path(place)
        settings = folder / "pgbouncer.ini"
        settings.write_text(
            f"[databases]\n* = host=127.0.0.1 port={server.port} user=topgraft\n[pgbouncer]\n"
            f"listen_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\nauth_type = any\n"
            f"pool_mode = transaction\ndefault_pool_size = {connections}\nlogfile = {folder / 'log'}\n"
            "server_login_retry = 1\n"  # seconds without a new try after the server did not answer
        )
        user = {}
        if os.geteuid() == 0:  # PgBouncer refuses to run as root
            user = {"user": "postgres", "group": "postgres", "extra_groups": []}
            shutil.chown(folder, "postgres", "postgres")
        with subprocess.Popen([command, "-q", settings], cwd="/", **user) as process:
            try:
                _wait(port, process, folder / "log")
                yield port
            finally:
                process.kill()


def _wait(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    for _ in range(500):
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        assert process.poll() is None, log.read_text() if log.exists() else "it ended"
        time.sleep(0.02)
    raise AssertionError("PgBouncer does not listen")
