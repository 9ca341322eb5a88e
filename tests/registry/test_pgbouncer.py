"""A registry behind a real PgBouncer: each transaction may get another connection, and connections serve many."""

from __future__ import annotations

import contextlib
import threading
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest

from backbone.errors import InputError
from registry.audit import audit
from registry.database import open_registry
from registry.entries import Conflict, LeaseHeld
from registry.store import Store
from tests.registry.actors import invented
from tests.registry.support import TOLD

CLIENTS, ROUNDS = 4, 25


@pytest.fixture
def url(postgres, pooler) -> str:
    """An empty schema, by way of the pooler."""
    direct = postgres.schema()
    return direct.replace(f":{postgres.port}/", f":{pooler}/")


def test_every_call_works_beside_other_clients(url):
    with contextlib.closing(open_registry(url)) as registry:
        invented(registry, "task", 10)
    gate, won = threading.Barrier(CLIENTS), []

    def client(number: int) -> None:
        with contextlib.closing(open_registry(url)) as registry:
            gate.wait()
            for turn in range(ROUNDS):
                live = registry.live("task")
                registry.lives(), registry.change(), registry.versions("task"), registry.promotions("task")
                with contextlib.suppress(LeaseHeld):
                    lease = registry.acquire("task", f"w{number}", 30)
                    registry.release(registry.renew(lease))
                version = (turn + number) % 10 + 1
                if live is not None and live.version == version:
                    continue
                with contextlib.suppress(Conflict):
                    generation = live.generation if live else 0
                    now = registry.promote("task", version, expected_generation=generation, **TOLD)
                    won.append(now.generation)

    with ThreadPoolExecutor(CLIENTS) as pool:
        list(pool.map(client, range(CLIENTS)))
    with contextlib.closing(open_registry(url)) as registry:
        assert sorted(set(won)) == [entry.generation for entry in registry.promotions("task")]
        assert registry.change().position == len(registry.promotions("task"))
        assert sorted(registry.entries(0, 1000)) == list(range(1, registry.change().position + 1))


def test_nothing_is_left_on_a_connection_that_others_get(url, postgres, pooler):
    with contextlib.closing(open_registry(url)) as registry:
        registry.acquire("task", "me", 30)
        host = f"host=127.0.0.1 port={pooler} user=topgraft dbname=postgres"
        with psycopg.connect(host, autocommit=True, prepare_threshold=None) as other:
            for name, value in (("lock_timeout", "0"), ("idle_in_transaction_session_timeout", "0")):
                assert other.execute(f"show {name}").fetchone() == (value,)
            assert other.execute("select count(*) from pg_prepared_statements").fetchone() == (0,)
            assert other.execute("select count(*) from pg_locks where locktype = 'advisory'").fetchone() == (0,)


def test_a_schema_of_its_own_is_meant_and_not_public(url, postgres, pooler, grafts, tmp_path):
    """PgBouncer refuses the option, or ignores it: then the tables would lie in `public`."""
    store = Store(tmp_path / "store")
    with contextlib.closing(open_registry(url)) as registry, contextlib.closing(open_registry(url)) as other:
        registry.publish("task", grafts[0], store)
        other.promote("task", 1, expected_generation=0, **TOLD)
        assert audit(registry, store).promotions == 1
        namespace = registry.database.namespace
    with contextlib.closing(open_registry(url.replace(str(pooler), str(postgres.port)))) as direct:
        assert direct.live("task").version == 1
    with psycopg.connect(f"host=127.0.0.1 port={postgres.port} user=topgraft dbname=postgres") as admin:
        found = "select table_schema from information_schema.tables where table_name = 'promotions'"
        assert (namespace,) in admin.execute(found).fetchall()
        assert ("public",) not in admin.execute(found).fetchall()
    with pytest.raises(InputError, match="none at"):
        open_registry(url.replace(namespace, "nobody"), create=False)
