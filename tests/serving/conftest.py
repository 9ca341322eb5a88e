"""A server on the tiny backbone, with three grafts and two slots."""

from __future__ import annotations

from pathlib import Path

import pytest
from starlette.testclient import TestClient

from adapters.specs import MultiLabel
from serving.live.catalogue import FolderCatalogue
from serving.live.follow import Follower
from serving.runtime import Runtime
from serving.server.app import Server
from serving.server.limits import Tokens
from serving.server.serve import warm
from tests.grafts import make
from tests.serving.place import ENVELOPE, LIMITS, SPEC


@pytest.fixture(scope="module")
def folder(tiny, tmp_path_factory) -> Path:
    """Three good grafts: more than there are slots."""
    path = tmp_path_factory.mktemp("grafts")
    make(path / "alpha", tiny, SPEC, seed=1)
    make(path / "beta", tiny, SPEC, MultiLabel(), seed=2)
    make(path / "gamma", tiny, SPEC, seed=3)
    return path


@pytest.fixture(scope="module")
def server(tiny, folder):
    with Runtime(tiny, ENVELOPE, buckets=(48,), batch_sizes=(8,), max_wait=0.0, max_waiting=32) as runtime:
        follower = Follower(runtime, FolderCatalogue(folder))
        made = Server(runtime, follower, LIMITS, Tokens())
        follower.poll()
        warm(runtime)
        made.ready = True
        yield made


@pytest.fixture(scope="module")
def client(server):
    with TestClient(server.app(), raise_server_exceptions=False) as found:
        yield found
