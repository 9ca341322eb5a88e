"""Signatures that a policy asks for, on SQLite and PostgreSQL: published, promoted, served, rotated, revoked."""

from __future__ import annotations

import shutil
from datetime import timedelta
from pathlib import Path

import pytest

import topgraft
from backbone.errors import InputError
from registry.budgets.limits import utc_today
from registry.budgets.read import read_budgets
from serving.live.catalogue import RegistryCatalogue
from tests.registry.support import flip
from tests.tiny import as_json

pytest.importorskip("cryptography", reason="cryptography is not installed: topgraft[sign]")

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from backbone.signing.bundle import sign_folder

ENTRY = '[[signatures.key]]\nfile = "{name}.pub"\nowner = "team {name}"\n'


@pytest.fixture
def policy(tmp_path: Path):
    """Writes the file of a policy with these keys beside it, and returns it."""
    for name in ("a", "b"):
        key = ec.generate_private_key(ec.SECP256R1())
        form, none = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        (tmp_path / f"{name}.pem").write_bytes(key.private_bytes(serialization.Encoding.PEM, form, none))
        spki = serialization.PublicFormat.SubjectPublicKeyInfo
        (tmp_path / f"{name}.pub").write_bytes(key.public_key().public_bytes(serialization.Encoding.PEM, spki))

    def write(required: int, **keys: str) -> Path:
        entries = "".join(ENTRY.format(name=name) + further for name, further in keys.items())
        (tmp_path / "team.toml").write_text(f"[signatures]\nrequired = {required}\n{entries}")
        return tmp_path / "team.toml"

    return write


@pytest.fixture
def call(url, store, capsys):
    def run(action: str, *words: object) -> tuple[int, dict]:
        place = ["--registry", url, "--store", str(store.root), "--json"]
        status = topgraft.main(["registry", action, *map(str, words), *place])
        return status, as_json(capsys.readouterr().out)

    return run


def test_a_life_with_signatures(call, policy, grafts, store, registry, tmp_path):
    graft = tmp_path / "graft"
    shutil.copytree(grafts[0], graft)
    file = policy(1, a="", b="")
    publish = ("publish", graft, "--task", "support", "--budgets", file)
    promote = ("promote", "support", 1, "--reason", "r", "--budgets", file)
    status, answer = call(*publish)
    assert (status, f"signed by 0 keys that count, {file}:1 asks for 1" in answer["error"]) == (10, True)
    sign_folder(graft, tmp_path / "a.pem")
    assert call(*publish)[1]["number"] == 1, "its signature goes into the store"
    folder = store.path(registry.version("support", 1).content_id)
    assert len(list((folder / "signatures").iterdir())) == 1

    policy(2, a="", b="")
    status, answer = call(*promote)
    assert (status, "signed by 1 keys that count" in answer["error"]) == (10, True)
    sign_folder(graft, tmp_path / "b.pem")
    assert call(*publish)[1]["number"] == 1, "the same content; the further signature is added"
    assert call(*promote)[1]["version"] == 1

    entry = RegistryCatalogue(registry, store).lives()["support"]
    assert RegistryCatalogue(registry, store, budgets=read_budgets(file)).path(entry) == folder
    policy(2, a='revoked = "lost with a laptop"\n', b="")
    status, answer = call(*promote)
    assert (status, "a.pub of team a is revoked" in answer["error"]) == (10, True)
    with pytest.raises(InputError, match="lost with a laptop"):
        RegistryCatalogue(registry, store, budgets=read_budgets(file)).path(entry)
    policy(1, a='revoked = "lost"\n', b=f"until = {utc_today()}\n")
    assert call(*promote)[0] == 0, "rotated: b alone counts, today for the last time"
    policy(1, a='revoked = "lost"\n', b=f"until = {utc_today() - timedelta(days=1)}\n")
    status, answer = call(*promote)
    assert (status, "b.pub of team b ended on" in answer["error"]) == (10, True)

    policy(1, a="", b="")
    flip(next((folder / "signatures").iterdir()))
    assert call(*promote)[0] == 2, "a damaged signature is no missing one"
    shutil.rmtree(folder / "signatures")
    assert call(*promote)[0] == 10
    assert call("rollback", "support", "--reason", "r")[0] == 2, "nothing was live before"


MISTAKES = {
    "more than there are": ("required = 2\n" + ENTRY.format(name="a"), 2, "expected 1 to the number of keys, 1"),
    "none of them": ("required = 0\n" + ENTRY.format(name="a"), 2, "expected 1 to the number of keys, 1, got 0"),
    "no tables": ('key = ["file"]\n', 2, "expected [signatures] with required"),
    "a number in place of a key": ("key = [1]\n", 2, "an entry [[signatures.key]] for each key"),
    "one key twice": (
        ENTRY.format(name="a") + 'revoked = "stolen"\n' + ENTRY.format(name="a"),
        6,
        "wrong.toml:2 again",
    ),
    "one key twice, of which two are asked": ("required = 2\n" + 2 * ENTRY.format(name="a"), 6, "keep one entry a key"),
    "one key in two files": (ENTRY.format(name="a") + ENTRY.format(name="same"), 5, "is the key of"),
    "an end at an hour": (ENTRY.format(name="a") + "until = 2027-01-01T00:00:00Z\n", 5, "expected a day"),
    "no keys": ("required = 1\n", 2, "the number of keys, 0"),
    "a key that is not there": (ENTRY.format(name="c"), 3, "there is no"),
    "no owner": ('[[signatures.key]]\nfile = "a.pub"\n', 2, "owner: missing"),
    "a key that nobody knows": (ENTRY.format(name="a") + "untill = 1\n", 5, "nearest: until"),
    "a setting that nobody knows": ("require = 1\n", 2, "nearest: required"),
    "an end in quotes": (ENTRY.format(name="a") + 'until = "soon"\n', 5, "without quotes"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_named_with_its_line(policy, tmp_path, mistake):
    text, line, message = MISTAKES[mistake]
    (tmp_path / "same.pub").write_bytes((tmp_path / "a.pub").read_bytes().replace(b"\n", b"\r\n"))
    file = tmp_path / "wrong.toml"
    file.write_text(f"[signatures]\n{text}")
    with pytest.raises(InputError) as error:
        read_budgets(file)
    assert message in str(error.value)
    assert str(error.value).startswith(f"{file}:{line}: ")


def test_a_retraining_signs_with_a_key_that_counts(policy, tmp_path):
    signers = read_budgets(policy(1, a="", b='revoked = "lost"\n')).signers
    signers.require_key(str(tmp_path / "a.pem"))
    for key, message in (("", "asks for a signature"), ("b.pem", "none of the keys that count")):
        with pytest.raises(InputError, match=message):
            signers.require_key(str(tmp_path / key) if key else "")
    signers = read_budgets(policy(1, a=f"until = {utc_today() - timedelta(days=1)}\n", b="")).signers
    with pytest.raises(InputError, match="none of the keys that count"):
        signers.require_key(str(tmp_path / "a.pem"))
    with pytest.raises(InputError, match="asks for 2 signers"):
        read_budgets(policy(2, a="", b="")).signers.require_key(str(tmp_path / "a.pem"))
