"""Data, grafts, backbones and stores at s3:// addresses, on a real server: read once, written create-only."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import re
import shutil
import threading
from dataclasses import replace
from pathlib import Path

import pytest

import topgraft
from adapters.artefact.manifest import MANIFEST, dumps, sealed
from adapters.artefact.read import read_graft
from backbone import remote
from backbone.copies import remove_unused
from backbone.errors import InputError
from backbone.remote import local
from registry.database import open_registry
from registry.entries import Unavailable
from registry.remote_store import RemoteStore, opened
from registry.store import Store
from serving.live.catalogue import RegistryCatalogue
from serving.live.loading import load_for_serving
from serving.live.standing import FollowState
from tests.grafts import make
from tests.object_store import Bucket, bucket_on, serving
from tests.tiny import as_json, rows, write_csv


@pytest.fixture(scope="module")
def server():
    with serving() as url:
        yield url


@pytest.fixture
def bucket(server, request, monkeypatch, tmp_path) -> Bucket:
    """An empty bucket, and a home without copies."""
    monkeypatch.setenv("TOPGRAFT_HOME", str(tmp_path / "home"))
    return bucket_on(server, f"bucket-{abs(hash(request.node.name)) % 10**9}", monkeypatch)


@pytest.fixture(scope="module")
def graft(tiny, tmp_path_factory) -> Path:
    make(tmp_path_factory.mktemp("made") / "graft", tiny)
    return tmp_path_factory.getbasetemp() / "made0" / "graft"


def call(*arguments, capsys) -> tuple[int, str, str]:
    status = topgraft.main([str(a) for a in arguments])
    out, err = capsys.readouterr()
    return status, out, err


def test_a_file_and_a_folder_are_copied_once_and_anew_when_they_change(bucket, caplog, tmp_path):
    caplog.set_level(logging.INFO)
    file = bucket.put("data/train.csv", b"text,label\n")
    bucket.put("data/deep/er.txt", b"x" * 70_000)
    bucket.put("database/other.csv", b"no part of data/")
    assert local(file).name == "train.csv"
    assert local(file).read_bytes() == b"text,label\n"
    folder = local(f"{bucket.address}/data/")
    assert sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()) == [
        "deep/er.txt", "train.csv",
    ]  # fmt: skip
    before = len([r for r in caplog.records if "downloading" in r.message])
    assert local(f"{bucket.address}/data") == folder
    assert len([r for r in caplog.records if "downloading" in r.message]) == before == 2
    os.utime(folder.parent, (0, 0))
    local(f"{bucket.address}/data")
    assert str(folder.parent) not in remove_unused(1), "it is used again"
    bucket.put("data/train.csv", b"text,other\n")
    assert local(file).read_bytes() == b"text,other\n"
    assert local(f"{bucket.address}/data") != folder
    assert local("plain/path") == Path("plain/path")


def test_what_is_absent_is_bad_input_and_a_server_that_is_gone_an_error(bucket, monkeypatch):
    with pytest.raises(InputError, match=r"s3://.*/none: no object, and none below it"):
        local(f"{bucket.address}/none")
    with pytest.raises(InputError, match=r"s3://no-such-bucket/x: .*check the address"):
        local("s3://no-such-bucket/x")
    with pytest.raises(InputError, match=r"gs://bucket/x: needs gcsfs: pip install 'topgraft\[remote\]'"):
        local("gs://bucket/x")


def test_a_copy_that_arrives_damaged_is_no_copy(bucket, monkeypatch, tmp_path):
    file = bucket.put("a.txt", b"content")
    entry = remote.listing(file)[0]
    monkeypatch.setattr(remote, "listing", lambda address: [remote.Entry("", entry.path, entry.size, "0" * 32)])
    with pytest.raises(OSError, match="arrived with another content"):
        local(file)
    assert not any(path.is_file() for path in (tmp_path / "home").rglob("*"))


def test_a_name_that_leads_out_of_the_folder_is_refused(bucket, tmp_path):
    bucket.put("data/a.txt", b"a")
    bucket.put("data/x/../../../../out.txt", b"out")
    with pytest.raises(InputError, match=r"leads out of a folder"):
        local(f"{bucket.address}/data")
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_an_entity_tag_under_a_key_is_no_md5(bucket, monkeypatch):
    for name, more in (("kms", {"ServerSideEncryption": "aws:kms"}), ("plain", {})):
        bucket.client.put_object(Bucket=bucket.name, Key=name, Body=b"content", **more)
    monkeypatch.setattr(remote, "_tag", lambda info: "0" * 32)  # what S3 answers under a key; moto answers the MD5
    assert local(f"{bucket.address}/kms").read_bytes() == b"content"
    with pytest.raises(OSError, match="arrived with another content"):
        local(f"{bucket.address}/plain")


def test_what_was_written_here_is_compared_by_its_sha256(bucket, monkeypatch):
    monkeypatch.setattr(remote, "MD5", re.compile("no tag is one"))
    assert remote.created(f"{bucket.address}/ours", b"content")
    theirs = bucket.put("theirs", b"content")
    system, _ = remote._system(theirs)
    monkeypatch.setattr(system, "get_file", lambda path, place: Path(place).write_bytes(b"cOntent"))
    assert local(theirs).read_bytes() == b"cOntent", "nothing is known of it but its size"
    with pytest.raises(OSError, match="arrived with another content"):
        local(f"{bucket.address}/ours")


def test_google_cloud_lists_an_md5_in_base64(monkeypatch, tmp_path):
    class Listed:
        def find(self, path, detail):
            return {path: {"type": "file", "size": 7, "md5Hash": "mgNkuembtIDdJeHwKEyFVQ=="}}

    monkeypatch.setattr(remote, "_system", lambda address: (Listed(), "bucket/x"))
    (entry,) = remote.listing("gs://bucket/x")
    assert entry.md5 == hashlib.md5(b"content").hexdigest()
    for content, same in ((b"content", True), (b"cOntent", False), (b"cut", False)):
        (tmp_path / "x").write_bytes(content)
        assert remote.is_copy("gs://bucket/x", entry, tmp_path / "x") == same


def test_of_several_writers_one_creates(bucket):
    results: list[bool] = []
    address = f"{bucket.address}/one"
    writers = [
        threading.Thread(target=lambda n=n: results.append(remote.created(address, str(n).encode()))) for n in range(6)
    ]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert sorted(results) == [False] * 5 + [True]
    content = remote.read(address)
    assert not remote.created(address, b"later")
    assert remote.read(address) == content
    assert remote.read(f"{bucket.address}/two") is None


def answer(code: str, status: int) -> OSError:
    """What s3fs raises for an answer without the condition that AWS names in it."""
    from botocore.exceptions import ClientError
    from s3fs.errors import translate_boto_error

    content = {"Error": {"Code": code, "Message": "no"}, "ResponseMetadata": {"HTTPStatusCode": status}}
    return translate_boto_error(ClientError(content, "PutObject"))


@pytest.mark.parametrize(
    ("answers", "there", "expected"),
    [
        ([answer("PreconditionFailed", 412)], True, False),
        ([answer("412", 412)], True, False),
        ([answer("ConditionalRequestConflict", 409), None], False, True),
        ([answer("OperationAborted", 409)] * 4, True, False),
        ([answer("ConditionalRequestConflict", 409)] * 4, False, OSError),
        ([answer("SlowDown", 503)], True, OSError),
    ],
)
def test_the_answers_of_other_servers_to_a_conditional_write(bucket, monkeypatch, answers, there, expected):
    monkeypatch.setattr(remote, "PAUSE", 0.0)
    address = bucket.put("x", b"former") if there else f"{bucket.address}/x"
    system, _ = remote._system(address)
    rest = iter(answers)

    def pipe_file(*arguments, **words):
        if (error := next(rest)) is not None:
            raise error

    monkeypatch.setattr(system, "pipe_file", pipe_file)
    if expected is OSError:
        with pytest.raises(OSError, match=re.escape(address)):
            remote.created(address, b"x")
    else:
        assert remote.created(address, b"x") == expected
    assert next(rest, "none is left") == "none is left"


def test_a_task_is_trained_and_scored_on_data_and_a_backbone_there(bucket, tiny_path, tmp_path, capsys):
    backbone = f"{bucket.address}/backbones/tiny"
    for _ in range(2):
        status, out, err = call("upload", tiny_path, backbone, "--json", capsys=capsys)
        assert status == 0, err
        assert as_json(out)["files"] == len(bucket.content())
    train = bucket.put("data/train.csv", write_csv(tmp_path / "a.csv", rows(60, seed=1)).read_bytes())
    test = bucket.put("data/test.csv", write_csv(tmp_path / "b.csv", rows(30, seed=2)).read_bytes())
    words = ["--set", f"backbone={backbone}", "--set", f"data.train={train}", "--set", f"data.test={test}"]
    words += ["--set", "data.max_tokens=48", "--set", "adapter.method=probe"]
    status, out, err = call("train", "text_classification", *words, "--workdir", "run", "--json", capsys=capsys)
    assert status == 0, err
    result = as_json(out)

    place = bucket.put_folder(Path("run/graft"), "grafts/one")
    status, out, err = call("evaluate", place, "--backbone", backbone, "--json", capsys=capsys)
    assert status == 0, err
    assert as_json(out)["metrics"]["test"] == pytest.approx(result["metrics"]["test"], rel=1e-5)
    assert topgraft.load(place, backbone).predict(["ban bas"])
    texts = bucket.put("texts.txt", b"ban bas\n")
    status, out, err = call("predict", place, "--backbone", backbone, "--file", texts, "--json", capsys=capsys)
    assert status == 0, err
    assert len(as_json(out)["predictions"]) == 1
    status, out, err = call("check", train, "--json", capsys=capsys)
    assert status == 0, err


def test_only_whole_grafts_and_backbones_are_uploaded_and_nothing_is_replaced(bucket, graft, tmp_path, capsys):
    address = f"{bucket.address}/grafts/one"
    status, _, err = call("upload", graft, address, capsys=capsys)
    assert status == 0, err
    assert {key.removeprefix("grafts/one/"): content for key, content in bucket.content().items()} == {
        file.name: file.read_bytes() for file in graft.iterdir()
    }
    bucket.put("grafts/one/canary.safetensors", b"other")
    damaged = shutil.copytree(graft, tmp_path / "damaged")
    (damaged / "graft.safetensors").write_bytes(b"x")
    for folder, to, message in (
        (graft, address, "canary.safetensors: has another content, and nothing is overwritten"),
        (damaged, f"{bucket.address}/two", "sha256 differs"),
        (tmp_path, f"{bucket.address}/two", "neither a graft"),
        (graft, str(tmp_path / "two"), "is no address on an object store"),
    ):
        status, _, err = call("upload", folder, to, capsys=capsys)
        assert (status, message in err) == (2, True), err
    assert not [key for key in bucket.content() if key.startswith("two")]


def test_a_registry_publishes_to_a_store_there_and_another_machine_serves_from_it(
    bucket, graft, tiny, tmp_path, monkeypatch, capsys
):
    place = ["--registry", f"sqlite:///{tmp_path / 'registry.db'}", "--store", f"{bucket.address}/store"]
    status, out, err = call("registry", "publish", graft, "--task", "t", *place, "--json", capsys=capsys)
    assert status == 0, err
    name = as_json(out)["content_id"].removeprefix("sha256:")
    objects = bucket.content()
    assert set(objects) == {"store/store.json", *(f"store/{name}/{file.name}" for file in graft.iterdir())}
    assert all(objects[f"store/{name}/{file.name}"] == file.read_bytes() for file in graft.iterdir())

    status, _, err = call("registry", "publish", graft, "--task", "t", *place, capsys=capsys)
    assert status == 0, err
    assert bucket.content() == objects, "nothing is written twice"
    promote = ["registry", "promote", "t", "1", "--reason", "x", "--actor", "y"]
    for words in (promote, ["registry", "audit"], ["registry", "show", "t"]):
        status, _, err = call(*words, *place, capsys=capsys)
        assert status == 0, err
    status, _, err = call("registry", "gc", *place, capsys=capsys)
    assert status == 2
    assert "on an object store, which nothing is removed from" in err

    monkeypatch.setenv("TOPGRAFT_HOME", str(tmp_path / "other machine"))
    store = opened(f"{bucket.address}/store")
    assert store.verify(f"sha256:{name}").content_id == f"sha256:{name}"
    folder = store.path(f"sha256:{name}")
    assert folder.is_relative_to(tmp_path / "other machine")
    assert topgraft.load(folder, tiny).predict(["ban bas"])
    assert store.identity() == RemoteStore(f"{bucket.address}/store").identity()
    assert not store.path("sha256:" + "0" * 64).exists()
    os.utime(folder, (0, 0))
    store.path(f"sha256:{name}")
    assert remove_unused(1) == [], "it is used again"
    os.utime(folder, (0, 0))
    assert remove_unused(1) == [str(folder)]
    assert store.verify(f"sha256:{name}").content_id == f"sha256:{name}", "it is downloaded again"

    monkeypatch.setenv("TOPGRAFT_HOME", str(tmp_path / "server"))
    with contextlib.closing(open_registry(place[1])) as registry:
        catalogue = RegistryCatalogue(registry, opened(place[3]))
        catalogue.change()
        lives = catalogue.lives()
        assert catalogue.standing(lives, {"t"}) == FollowState()
        assert load_for_serving(catalogue.path(lives["t"]), tiny).manifest.content_id == f"sha256:{name}"
        bucket.client.delete_object(Bucket=bucket.name, Key="store/store.json")
        assert catalogue.standing(lives, {"t"}).word == "no_store"


def test_a_rollback_by_a_machine_without_copies_reads_the_artefact_there(
    bucket, graft, tiny, tmp_path, monkeypatch, capsys
):
    make(tmp_path / "second", tiny, seed=5)
    place = ["--registry", f"sqlite:///{tmp_path / 'registry.db'}", "--store", f"{bucket.address}/store"]
    why = ["--reason", "x", "--actor", "y"]
    for number, folder in ((1, graft), (2, tmp_path / "second")):
        assert call("registry", "publish", folder, "--task", "t", *place, capsys=capsys)[0] == 0
        assert call("registry", "promote", "t", number, *why, *place, capsys=capsys)[0] == 0
    objects = bucket.content()
    former = read_graft(graft)[0].content_id.removeprefix("sha256:")

    damaged = f"store/{former}/{MANIFEST}"
    bucket.put(damaged, objects[damaged][:-9])
    monkeypatch.setenv("TOPGRAFT_HOME", str(tmp_path / "other machine"))
    status, _, err = call("registry", "rollback", "t", *why, *place, capsys=capsys)
    with contextlib.closing(open_registry(place[1])) as registry:
        assert (status, registry.live("t").version) == (2, 2), err
    assert former in err
    bucket.put(damaged, objects[damaged])
    status, _, err = call("registry", "rollback", "t", *why, *place, capsys=capsys)
    with contextlib.closing(open_registry(place[1])) as registry:
        assert (status, registry.live("t").version) == (0, 1), err
    assert bucket.content() == objects, "nothing is written there"


def test_an_artefact_without_its_manifest_is_not_there_and_is_completed(bucket, graft, tmp_path, monkeypatch):
    store = RemoteStore(f"{bucket.address}/store")
    upload = remote.upload

    def killed(folder, names, address):
        assert names[-1] == MANIFEST
        upload(folder, names[:-1], address)
        raise OSError("killed")

    monkeypatch.setattr(remote, "upload", killed)
    with pytest.raises(Unavailable):
        store.add(graft)
    monkeypatch.setattr(remote, "upload", upload)
    shutil.rmtree(tmp_path / "home")
    name = next(key.split("/")[1] for key in bucket.content() if key.endswith("graft.safetensors"))
    assert not RemoteStore(f"{bucket.address}/store").path(f"sha256:{name}").exists()
    assert store.add(graft) == (f"sha256:{name}", name)
    assert f"store/{name}/{MANIFEST}" in bucket.content()

    bucket.put(f"store/{name}/graft.safetensors", b"altered")
    shutil.rmtree(tmp_path / "home")
    with pytest.raises(InputError, match=r"sha256 differs"):
        store.path(f"sha256:{name}")
    with pytest.raises(InputError, match=rf"{store.address}/{name}: .*sha256 differs"):
        store.add(graft)
    with pytest.raises(InputError, match=r"graft.safetensors: has another content, and nothing is overwritten"):
        upload(graft, ["graft.safetensors"], f"{store.address}/{name}")


@pytest.fixture
def twin(graft, tmp_path) -> Path:
    """The same graft with other costs in its manifest, so of the same content_id, and with a signature."""
    folder = shutil.copytree(graft, tmp_path / "twin")
    manifest = read_graft(graft)[0]
    training = replace(manifest.training, costs={"seconds": 12.5})
    (folder / MANIFEST).write_bytes(dumps(sealed(replace(manifest, training=training))))
    (folder / "signatures").mkdir()
    (folder / "signatures" / "key.sig").write_text("covers this manifest")
    assert read_graft(folder)[0].content_id == read_graft(graft)[0].content_id
    return folder


def killed(*arguments):
    raise OSError("killed")


def test_the_loser_of_a_race_takes_the_artefact_of_the_winner(bucket, graft, twin, tmp_path, monkeypatch, caplog):
    store, upload = RemoteStore(f"{bucket.address}/store"), remote.upload
    monkeypatch.setattr(remote, "upload", killed)
    with pytest.raises(Unavailable, match="killed"):
        store.add(twin)
    monkeypatch.setattr(remote, "upload", upload)
    monkeypatch.setenv("TOPGRAFT_HOME", str(tmp_path / "winner"))
    content_id, name = RemoteStore(store.address).add(graft)
    objects = bucket.content()

    copy = store.root / name
    assert (copy / MANIFEST).read_bytes() == (twin / MANIFEST).read_bytes()
    assert store.add(twin) == (content_id, name)
    assert (copy / MANIFEST).read_bytes() == (graft / MANIFEST).read_bytes()
    assert not (copy / "signatures").exists(), "the signature covers another manifest"
    assert "which no signature of this graft covers" in caplog.text
    assert bucket.content() == objects
    assert store.verify(content_id).content_id == content_id


def test_an_upload_that_was_not_completed_names_its_objects(bucket, graft, tmp_path):
    store = RemoteStore(f"{bucket.address}/store")
    name = read_graft(graft)[0].content_id.removeprefix("sha256:")
    store.identity(create=True)
    bucket.put(f"store/{name}/graft.safetensors", b"half")
    with pytest.raises(
        InputError, match=r"was not completed: .*delete its objects \(.*graft.safetensors\), and publish"
    ):
        store.add(graft)
    bucket.client.delete_object(Bucket=bucket.name, Key=f"store/{name}/graft.safetensors")
    assert store.add(graft)[1] == name


def test_an_audit_looks_at_the_objects_and_publishing_again_restores_them(bucket, graft, tmp_path, capsys):
    place = ["--registry", f"sqlite:///{tmp_path / 'registry.db'}", "--store", f"{bucket.address}/store"]
    publish = ["registry", "publish", graft, "--task", "t", *place]
    assert call(*publish, capsys=capsys)[0] == 0
    store = opened(f"{bucket.address}/store")
    (store.root / ("f" * 64)).mkdir()
    key = next(key for key in bucket.content() if key.endswith("graft.safetensors"))
    content = bucket.content()[key]
    promote = ["registry", "promote", "t", "1", "--reason", "x", "--actor", "y"]
    for bad, message in ((None, "no object"), (b"\0" * len(content), "another content"), (b"cut", "another content")):
        bucket.client.delete_object(Bucket=bucket.name, Key=key)
        if bad is not None:
            bucket.put(key, bad)
        for words in (["registry", "audit"], promote):
            status, _, err = call(*words, *place, capsys=capsys)
            assert (status, f"{key}: " in err, message in err) == (2, True, True), err
    bucket.client.delete_object(Bucket=bucket.name, Key=key)
    status, _, err = call(*publish, capsys=capsys)
    assert status == 0, err
    assert bucket.content()[key] == content
    status, out, err = call("registry", "audit", *place, "--json", capsys=capsys)
    assert (status, as_json(out)["orphans"]) == (0, []), err


def test_a_signature_that_is_added_later_reaches_a_machine_that_has_the_artefact(
    bucket, graft, tmp_path, monkeypatch, caplog
):
    signed = shutil.copytree(graft, tmp_path / "signed")
    first = RemoteStore(f"{bucket.address}/store")
    content_id, _ = first.add(signed)
    monkeypatch.setenv("TOPGRAFT_HOME", str(tmp_path / "other machine"))
    second = RemoteStore(first.address)
    assert not (second.path(content_id) / "signatures").exists()
    (signed / "signatures").mkdir()
    (signed / "signatures" / "key.sig").write_text("covers it")
    first.add(signed)
    assert (second.path(content_id) / "signatures" / "key.sig").read_text() == "covers it"
    monkeypatch.setattr(remote, "listing", killed)
    assert second.path(content_id).is_dir(), "the copy serves while the object store does not answer"
    assert "signatures that were added later are not known here" in caplog.text


def test_a_server_without_conditional_writes_is_no_place_for_a_store(bucket, monkeypatch):
    store = RemoteStore(f"{bucket.address}/store")
    system, _ = remote._system(store.address)
    pipe_file = system.pipe_file
    monkeypatch.setattr(system, "pipe_file", lambda path, content, mode, **more: pipe_file(path, content, **more))
    for _ in range(2):
        with pytest.raises(InputError, match=r"ignores `If-None-Match`"):
            store.identity(create=True)


def test_a_label_that_appears_meanwhile_is_no_strange_object(bucket, monkeypatch):
    store = RemoteStore(f"{bucket.address}/store")
    store_id, read, reads = store.identity(create=True), remote.read, []
    monkeypatch.setattr(remote, "read", lambda address: read(address) if reads else reads.append(address))
    assert RemoteStore(store.address).identity(create=True) == store_id


def test_rows_are_shared_and_a_store_is_no_place_of_something_else(bucket, tmp_path):
    store = RemoteStore(f"{bucket.address}/store")
    with pytest.raises(Unavailable, match="no store"):
        store.identity()
    assert not store.labelled()
    store.identity(create=True)
    assert store.labelled()
    (store.root / "a.rows.npz").write_bytes(b"rows")
    store.share("a.rows.npz")
    shutil.rmtree(tmp_path / "home")
    store.bring("a.rows.npz")
    store.bring("b.rows.npz")
    assert (store.root / "a.rows.npz").read_bytes() == b"rows"
    bucket.put("other/file", b"")
    with pytest.raises(InputError, match="holds something else"):
        RemoteStore(f"{bucket.address}/other").identity(create=True)
    plain = Store(tmp_path / "plain")
    plain.share("x")
    plain.bring("x")
    assert plain.collects


def test_a_server_that_does_not_answer_is_unavailable(monkeypatch, tmp_path):
    monkeypatch.setenv("TOPGRAFT_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "x")
    import s3fs

    s3fs.S3FileSystem.clear_instance_cache()
    monkeypatch.setattr(s3fs.S3FileSystem, "retries", 1)
    with pytest.raises(Unavailable, match="store: s3://bucket/store: "):
        RemoteStore("s3://bucket/store").identity()
