"""Many processes, stopped processes and killed ones: nothing is lost, doubled or half done."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from registry.entries import Conflict, Lease, LeaseHeld
from registry.store import Store
from tests.registry.actors import ROOT
from tests.registry.support import TOLD, actor, answer, wait_for

PROMOTERS, EACH = 8, 12  # benchmarks/registry.py runs 200 each
STRIDE = {"sqlite": 6, "postgresql": 12}  # of the lines at which a child is killed; 1 is every line


def test_no_promotion_is_lost_or_doubled(url):
    told = json.loads(answer("promoters", url, PROMOTERS, EACH))
    assert told["promotions"] == PROMOTERS * EACH
    assert told["refused"] > 0, "they did meet"


def test_kill_minus_nine_at_every_step_of_publication_and_promotion(url, tmp_path, grafts):
    stride = STRIDE["sqlite" if url.startswith("sqlite") else "postgresql"]
    told = json.loads(answer("killed", url, tmp_path / "killed", grafts[1], grafts[0], stride))
    assert told["kills"] >= 100 // stride
    assert min(told.values()) > 0, "before both, between them, and after a whole run"


@pytest.mark.parametrize("sign", [signal.SIGSTOP, signal.SIGKILL])
def test_a_holder_that_stops_or_dies_loses_the_task(registry, url, grafts, tmp_path, sign):
    store = Store(tmp_path / "store")
    for graft in grafts[:2]:
        registry.publish("task", graft, store)
    with actor("holder", url, 2.0) as process:
        token = int(process.stdout.readline())
        with pytest.raises(LeaseHeld, match="leased by holder"):
            registry.acquire("task", "next", 600.0)
        process.send_signal(sign)
        taken: list[Lease] = []

        def free() -> bool:
            try:
                taken.append(registry.acquire("task", "next", 600.0))
            except LeaseHeld:
                return False
            return True

        assert wait_for(free), "the lease expires"
        assert taken[0].token == token + 1
        live = registry.promote("task", 2, expected_generation=0, fence=taken[0].token, **TOLD)
        process.send_signal(signal.SIGCONT)
        out, _ = process.communicate("go\n" if sign == signal.SIGSTOP else None)
        if sign == signal.SIGSTOP:
            lost = f"Conflict: task: the lease was lost: its fence is {token}, the last one is {token + 1} of next"
            assert [line.partition(";")[0] for line in out.splitlines()] == [lost, lost]
        else:
            assert out == ""
        process.wait()
    assert registry.live("task") == live
    with pytest.raises(Conflict):
        registry.renew(Lease("task", "holder", token, 0.0, 2.0))


def test_looking_something_up_imports_no_jax(url, registry):
    code = (
        "import sys; from registry.database import open_registry; from registry import place\n"
        "r = open_registry(sys.argv[1]); r.live('task'); r.lives(); r.change(); place.Place(sys.argv[1]).open()\n"
        "print([m for m in sys.modules if m.partition('.')[0] in ('jax', 'flax', 'jaxlib')])"
    )
    done = subprocess.run([sys.executable, "-c", code, url], capture_output=True, text=True, check=True, cwd=Path(ROOT))
    assert done.stdout.strip() == "[]"
