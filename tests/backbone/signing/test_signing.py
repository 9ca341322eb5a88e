"""Signatures of folders: sixty ways to tamper, several signers, and the published schemas' rules."""

from __future__ import annotations

import base64
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

import topgraft
from backbone.errors import InputError
from tests.tiny import as_json

cryptography = pytest.importorskip("cryptography", reason="cryptography is not installed: topgraft[sign]")

from cryptography.hazmat.primitives import hashes, serialization  # noqa: E402
from cryptography.hazmat.primitives.asymmetric import ec, ed25519  # noqa: E402

from backbone.signing.bundle import MEDIA, pae, sign_folder, verify_folder  # noqa: E402
from backbone.signing.keys import read_private, read_public  # noqa: E402
from backbone.signing.statement import resources_of, root_digest  # noqa: E402

CURVES = {"p256": ec.SECP256R1(), "p384": ec.SECP384R1(), "p521": ec.SECP521R1()}
FILES = ("canary.safetensors", "graft.safetensors", "manifest.json")


def write_key(folder: Path, name: str, key) -> None:
    form, none = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    (folder / f"{name}.pem").write_bytes(key.private_bytes(serialization.Encoding.PEM, form, none))
    public = key.public_key()
    spki = serialization.PublicFormat.SubjectPublicKeyInfo
    (folder / f"{name}.pub").write_bytes(public.public_bytes(serialization.Encoding.PEM, spki))


@pytest.fixture(scope="module")
def keys(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("keys")
    for name, curve in CURVES.items():
        write_key(folder, name, ec.generate_private_key(curve))
    return folder


@pytest.fixture
def graft(tmp_path) -> Path:
    """A folder of the names and sizes of a graft; what is in it does not matter here."""
    folder = tmp_path / "graft"
    folder.mkdir()
    for number, name in enumerate(FILES, 1):
        (folder / name).write_bytes(bytes(range(256)) * number)
    return folder


def bundle_of(graft: Path) -> Path:
    (path,) = (graft / "signatures").iterdir()
    return path


def test_what_is_signed_is_verified_on_every_curve_by_every_signer(graft, keys):
    for name in CURVES:
        result = sign_folder(graft, keys / f"{name}.pem")
        assert (result.files, Path(result.path).stem) == (3, result.fingerprint)
    public = [read_public(keys / f"{name}.pub") for name in CURVES]
    result = verify_folder(graft, public)
    assert set(result.fingerprints) == {one.fingerprint for one in public}
    assert verify_folder(graft, public[:1]).others == tuple(sorted(one.fingerprint for one in public[1:]))
    sign_folder(graft, keys / "p256.pem")
    assert len(list((graft / "signatures").iterdir())) == 3, "the same key signs once"


def test_the_statement_by_the_specification(graft, keys):
    """Sections 4 to 6 of OpenSSF Model Signing v1.0, and DSSE's encoding, by hand."""
    import hashlib

    sign_folder(graft, keys / "p256.pem")
    bundle = json.loads(bundle_of(graft).read_text())
    assert bundle.keys() == {"mediaType", "verificationMaterial", "dsseEnvelope"}
    assert bundle["mediaType"] == MEDIA
    pem = (keys / "p256.pub").read_bytes()
    assert bundle["verificationMaterial"]["publicKey"]["hint"] == hashlib.sha256(pem).hexdigest()
    payload = base64.b64decode(bundle["dsseEnvelope"]["payload"])
    statement = json.loads(payload)
    assert statement["predicateType"] == "https://model_signing/signature/v1.0"
    digests = [hashlib.sha256((graft / name).read_bytes()).digest() for name in FILES]
    assert statement["predicate"]["resources"] == [
        {"name": name, "digest": digest.hex(), "algorithm": "sha256"}
        for name, digest in zip(FILES, digests, strict=True)
    ]
    root = hashlib.sha256(b"".join(digests)).hexdigest()
    assert statement["subject"] == [{"name": "graft", "digest": {"sha256": root}}]
    message = b"DSSEv1 28 application/vnd.in-toto+json %d %s" % (len(payload), payload)
    assert pae(payload) == message
    key = serialization.load_pem_public_key(pem)
    key.verify(base64.b64decode(bundle["dsseEnvelope"]["signatures"][0]["sig"]), message, ec.ECDSA(_sha256()))


def _sha256():
    from cryptography.hazmat.primitives import hashes

    return hashes.SHA256()


def flipped(name: str, place: float) -> Callable[[Path, Path], object]:
    def change(graft: Path, keys: Path) -> None:
        whole = bytearray((graft / name).read_bytes())
        whole[int(place * (len(whole) - 1))] ^= 1
        (graft / name).write_bytes(whole)

    return change


def rewritten(name: str, change: Callable[[bytes], bytes]) -> Callable[[Path, Path], object]:
    return lambda graft, keys: (graft / name).write_bytes(change((graft / name).read_bytes()))


def in_bundle(change: Callable[[dict], object]) -> Callable[[Path, Path], object]:
    """Changes the bundle around the signed bytes."""

    def apply(graft: Path, keys: Path) -> None:
        values = json.loads(bundle_of(graft).read_text())
        change(values)
        bundle_of(graft).write_text(json.dumps(values))

    return apply


def in_statement(change: Callable[[dict], object], *, signed: bool) -> Callable[[Path, Path], object]:
    """Changes the statement; `signed` by the trusted key, as a careless or hostile signer would."""

    def apply(graft: Path, keys: Path) -> None:
        values = json.loads(bundle_of(graft).read_text())
        statement = json.loads(base64.b64decode(values["dsseEnvelope"]["payload"]))
        change(statement)
        payload = json.dumps(statement).encode()
        values["dsseEnvelope"]["payload"] = base64.b64encode(payload).decode()
        if signed:
            signature = read_private(keys / "p256.pem").sign(pae(payload))
            values["dsseEnvelope"]["signatures"][0]["sig"] = base64.b64encode(signature).decode()
        bundle_of(graft).write_text(json.dumps(values))

    return apply


def text_of_bundle(change: Callable[[str], str]) -> Callable[[Path, Path], object]:
    return lambda graft, keys: bundle_of(graft).write_text(change(bundle_of(graft).read_text()))


def linked(graft: Path, keys: Path) -> None:
    shutil.copy(graft / FILES[1], graft.parent / "elsewhere")
    (graft / FILES[1]).unlink()
    (graft / FILES[1]).symlink_to(graft.parent / "elsewhere")


def swapped(graft: Path, keys: Path) -> None:
    one, other = (graft / name for name in FILES[:2])
    first = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(first)


def of_another_graft(graft: Path, keys: Path) -> None:
    other = graft.parent / "other"
    other.mkdir()
    (other / "graft.safetensors").write_bytes(b"other")
    sign_folder(other, keys / "p256.pem")
    shutil.copy(bundle_of(other), bundle_of(graft))


def by_another_key(graft: Path, keys: Path) -> None:
    """A stranger signs what it altered, and names the trusted key."""
    trusted = bundle_of(graft)
    hint = json.loads(trusted.read_text())["verificationMaterial"]["publicKey"]["hint"]
    trusted.unlink()
    (graft / FILES[1]).write_bytes(b"altered")
    sign_folder(graft, keys / "p384.pem")
    values = json.loads(bundle_of(graft).read_text())
    values["verificationMaterial"]["publicKey"]["hint"] = hint
    bundle_of(graft).write_text(json.dumps(values))


def predicate(statement: dict) -> dict:
    return statement["predicate"]


STATEMENTS: dict[str, Callable[[dict], object]] = {
    "digest": lambda s: predicate(s)["resources"][0].update(digest="0" * 64),
    "name": lambda s: predicate(s)["resources"][0].update(name="canary.safetensor"),
    "removed resource": lambda s: predicate(s)["resources"].pop(1),
    "added resource": lambda s: predicate(s)["resources"].append({"name": "z", "digest": "00", "algorithm": "sha256"}),
    "order": lambda s: predicate(s)["resources"].reverse(),
    "twice": lambda s: predicate(s)["resources"].append(predicate(s)["resources"][-1]),
    "no resources": lambda s: predicate(s).update(resources=[]),
    "algorithm": lambda s: predicate(s)["resources"][0].update(algorithm="md5"),
    "no hexadecimal": lambda s: predicate(s)["resources"][0].update(digest="xyz"),
    "serialization": lambda s: predicate(s).pop("serialization"),
    "hash type": lambda s: predicate(s)["serialization"].update(hash_type="blake2b"),
    "shards": lambda s: predicate(s)["serialization"].update(method="shards"),
    "links": lambda s: predicate(s)["serialization"].update(allow_symlinks=True),
    "links as a number": lambda s: predicate(s)["serialization"].update(allow_symlinks=0),
    "left out": lambda s: predicate(s)["serialization"]["ignore_paths"].append("graft.safetensors"),
    "unknown field": lambda s: predicate(s)["serialization"].update(except_for="graft.safetensors"),
    "predicate type": lambda s: s.update(predicateType="https://model_signing/Digests/v0.1"),
    "statement type": lambda s: s.update(_type="https://in-toto.io/Statement/v0.1"),
    "root digest": lambda s: s["subject"][0]["digest"].update(sha256="0" * 64),
    "two subjects": lambda s: s["subject"].append(s["subject"][0]),
    "no subject": lambda s: s.update(subject=[]),
}
BUNDLES: dict[str, Callable[[dict], object]] = {
    "payload type": lambda b: b["dsseEnvelope"].update(payloadType="text/plain"),
    "media type": lambda b: b.update(mediaType="application/json"),
    "signature cut": lambda b: b["dsseEnvelope"]["signatures"][0].update(
        sig=b["dsseEnvelope"]["signatures"][0]["sig"][:40]
    ),
    "signature of zeros": lambda b: b["dsseEnvelope"]["signatures"][0].update(sig="AAAA"),
    "signature empty": lambda b: b["dsseEnvelope"]["signatures"][0].update(sig=""),
    "no signature": lambda b: b["dsseEnvelope"].update(signatures=[]),
    "two signatures": lambda b: b["dsseEnvelope"]["signatures"].append({"sig": "AAAA"}),
    "no base64": lambda b: b["dsseEnvelope"].update(payload="*" + b["dsseEnvelope"]["payload"]),
    "payload empty": lambda b: b["dsseEnvelope"].update(payload=""),
    "no envelope": lambda b: b.pop("dsseEnvelope"),
    "message signature": lambda b: b.update(messageSignature={}),
    "a certificate": lambda b: b.update(verificationMaterial={"certificate": {"rawBytes": "AAAA"}}),
    "key unnamed": lambda b: b["verificationMaterial"]["publicKey"].pop("hint"),
    "key of nobody": lambda b: b["verificationMaterial"]["publicKey"].update(hint="0" * 64),
}
TAMPERED: dict[str, Callable[[Path, Path], object]] = {
    **{f"{name} at {place}": flipped(name, place) for name in FILES for place in (0, 0.5, 1)},
    **{f"{name} cut": rewritten(name, lambda whole: whole[:-1]) for name in FILES},
    **{f"{name} longer": rewritten(name, lambda whole: whole + b"\n") for name in FILES},
    **{f"{name} empty": rewritten(name, lambda whole: b"") for name in FILES[:2]},
    **{f"statement: {name}": in_statement(change, signed=False) for name, change in list(STATEMENTS.items())[:6]},
    **{f"signed statement: {name}": in_statement(change, signed=True) for name, change in STATEMENTS.items()},
    **{f"bundle: {name}": in_bundle(change) for name, change in BUNDLES.items()},
    "no file": lambda graft, keys: (graft / FILES[0]).unlink(),
    "one more file": lambda graft, keys: (graft / "more.py").write_text("x"),
    "one more file below": lambda graft, keys: ((graft / "d").mkdir(), (graft / "d" / "x").write_text("x")),
    "hidden file": lambda graft, keys: (graft / ".hidden").write_text("x"),
    "renamed": lambda graft, keys: (graft / FILES[0]).rename(graft / "Canary.safetensors"),
    "link": linked,
    "swapped": swapped,
    "signature of another graft": of_another_graft,
    "signature by another key": by_another_key,
    "signature removed": lambda graft, keys: bundle_of(graft).unlink(),
    "signature is a link": lambda graft, keys: (
        p := bundle_of(graft),
        p.rename(graft.parent / "s"),
        p.symlink_to(graft.parent / "s"),
    ),
    "key twice in JSON": text_of_bundle(lambda text: '{"mediaType": "x", ' + text[1:]),
    "text behind": text_of_bundle(lambda text: text + "{}"),
    "no JSON": text_of_bundle(lambda text: text[:-1]),
    "a list": text_of_bundle(lambda text: f"[{text}]"),
    "nothing": text_of_bundle(lambda text: ""),
}


@pytest.mark.parametrize("mutation", TAMPERED)
def test_tampering_is_refused(graft, keys, capsys, mutation):
    sign_folder(graft, keys / "p256.pem")
    words = ["verify", str(graft), "--key", str(keys / "p256.pub"), "--json"]
    assert topgraft.main(words) == 0
    capsys.readouterr()
    TAMPERED[mutation](graft, keys)
    assert topgraft.main(words) == 2
    assert str(graft) in as_json(capsys.readouterr().out)["error"]


def test_there_are_sixty_of_them():
    assert len(TAMPERED) >= 60


def test_an_unnamed_signer_proves_nothing(graft, keys, capsys):
    sign_folder(graft, keys / "p384.pem")
    assert topgraft.main(["verify", str(graft), "--key", str(keys / "p256.pub")]) == 2
    assert "no signature by" in capsys.readouterr().err
    assert topgraft.main(["sign", str(graft), "--key", str(keys / "p256.pem")]) == 0
    both = ["--key", str(keys / "p256.pub"), "--key", str(keys / "p384.pub")]
    assert topgraft.main(["verify", str(graft), *both]) == 0
    assert topgraft.main(["verify", str(graft)]) == 2


@pytest.mark.parametrize("name", ["signatures", ".gitignore", "inner"])
def test_links_are_refused_everywhere(graft, keys, capsys, name):
    """Also in what the specification leaves out: a signature would be written or read beside the folder."""
    sign_folder(graft, keys / "p256.pem")
    outside = graft.parent / "outside"
    if name == "signatures":
        shutil.move(graft / name, outside)
    else:
        outside.mkdir()
    (graft / name).symlink_to(outside, target_is_directory=True)
    before = sorted(outside.iterdir())
    for words in (["verify", str(graft), "--key", str(keys / "p256.pub")], ["sign", str(graft)]):
        if words[0] == "sign":
            words += ["--key", str(keys / "p384.pem")]
        assert topgraft.main(words) == 2
        assert f"{graft / name}: a symbolic link" in capsys.readouterr().err
    assert sorted(outside.iterdir()) == before
    (graft.parent / "link").symlink_to(keys, target_is_directory=True)
    with pytest.raises(InputError, match="no folder, or a link to one"):
        resources_of(graft.parent / "link")


def test_what_git_keeps_at_the_root_is_left_out_and_nowhere_else(graft, keys):
    """Section 5 of the specification; a folder of that name further in is signed."""
    for name in (".git/config", "inner/.git/config", "inner/signatures/one"):
        (graft / name).parent.mkdir(parents=True, exist_ok=True)
        (graft / name).write_text("x")
    assert sorted(resources_of(graft)) == sorted([*FILES, "inner/.git/config", "inner/signatures/one"])
    sign_folder(graft, keys / "p256.pem")
    (graft / "inner/.git/evil").write_text("x")
    with pytest.raises(InputError, match="evil: not covered by the signature"):
        verify_folder(graft, [read_public(keys / "p256.pub")])


def test_a_name_that_is_no_unicode_is_named(graft, keys):
    Path(os.fsdecode(os.fsencode(graft) + b"/\xff")).touch()
    with pytest.raises(InputError, match=r"name of a file: .* is no Unicode text"):
        sign_folder(graft, keys / "p256.pem")


def test_a_signature_that_is_copied_counts_once_and_every_named_key_must_have_signed(graft, keys, capsys):
    first = Path(sign_folder(graft, keys / "p256.pem").path)
    shutil.copy(first, first.with_name("copy.sig"))
    key = read_public(keys / "p256.pub")
    assert verify_folder(graft, [key]).fingerprints == (key.fingerprint,)
    both = ["--key", str(keys / "p256.pub"), "--key", str(keys / "p384.pub")]
    assert topgraft.main(["verify", str(graft), *both]) == 2
    err = capsys.readouterr().err
    assert "no signature by" in err
    assert key.fingerprint in err, "who did sign"
    assert "topgraft sign" in err


def test_each_curve_has_its_hash(graft, keys):
    """Section 4 of the specification; the library verifies each signature with the hash of its curve."""
    expected = {"p256": hashes.SHA256(), "p384": hashes.SHA384(), "p521": hashes.SHA512()}
    for name, digest in expected.items():
        signature = read_private(keys / f"{name}.pem").sign(b"message")
        public = serialization.load_pem_public_key((keys / f"{name}.pub").read_bytes())
        public.verify(signature, b"message", ec.ECDSA(digest))


def test_a_key_that_is_missing_or_encrypted_is_told_how_to_go_on(graft, tmp_path):
    with pytest.raises(InputError) as missing:
        sign_folder(graft, tmp_path / "missing.pem")
    assert "genkey" not in str(missing.value)
    assert str(missing.value).count("no readable key") == 1
    assert "no private key" not in str(missing.value)
    form = serialization.BestAvailableEncryption(b"x")
    key = ec.generate_private_key(ec.SECP256R1())
    encoded = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, form)
    (tmp_path / "locked.pem").write_bytes(encoded)
    with pytest.raises(InputError, match=r"the key is encrypted.*openssl pkey -in"):
        sign_folder(graft, tmp_path / "locked.pem")


def test_bad_keys_and_folders_are_named(graft, keys, tmp_path):
    write_key(tmp_path, "ed", ed25519.Ed25519PrivateKey.generate())
    write_key(tmp_path, "k1", ec.generate_private_key(ec.SECP256K1()))
    for name, message in (("ed", "takes the curves"), ("k1", "secp256k1"), ("none", "no readable key")):
        with pytest.raises(InputError, match=message):
            sign_folder(graft, tmp_path / f"{name}.pem")
    with pytest.raises(InputError, match="no private key in PEM"):
        sign_folder(graft, keys / "p256.pub")
    with pytest.raises(InputError, match="no public key in PEM"):
        read_public(graft / FILES[0])
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="holds no file"):
        resources_of(tmp_path / "empty")
    assert root_digest({"b": "00", "a": "ff"}) == root_digest({"a": "ff", "b": "00"})


def test_a_signature_of_the_reference_implementation(tmp_path):
    """tests/goldens/model_signing: `model_signing sign key`, version 1.1.1."""
    shutil.copytree(Path(__file__).parents[2] / "goldens" / "model_signing", tmp_path / "golden")
    key = read_public(tmp_path / "golden" / "key.pub")
    assert verify_folder(tmp_path / "golden" / "graft", [key]).fingerprints == (key.fingerprint,)
    (tmp_path / "golden" / "graft" / "graft.safetensors").write_text("tensor\n")
    with pytest.raises(InputError, match="altered after it was signed"):
        verify_folder(tmp_path / "golden" / "graft", [key])
