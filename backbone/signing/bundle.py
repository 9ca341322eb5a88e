"""Signatures of a folder, each in a file `signatures/FINGERPRINT.sig`: a Sigstore bundle with a DSSE envelope.

Sources: OpenSSF Model Signing v1.0, sections 4 and 8; DSSE v1.0 (secure-systems-lab/dsse, protocol.md). The reference
implementation reads these files, and this module reads its own of the method `key`.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from backbone.errors import InputError, shown
from backbone.files import write_durable
from backbone.signing.keys import PublicKey, read_private
from backbone.signing.statement import FOLDER, SUFFIX, resources_of, signed_digests, statement_of, strict_json

MEDIA = "application/vnd.dev.sigstore.bundle.v0.3+json"
PAYLOAD = "application/vnd.in-toto+json"


@dataclass(frozen=True)
class Signed:
    """The result of `sign`; `--json` prints it."""

    path: str  # file of the signature
    fingerprint: str  # SHA-256 of the public key's PEM
    files: int  # files that it covers


@dataclass(frozen=True)
class Verified:
    """The result of `verify`; `--json` prints it."""

    path: str  # folder
    fingerprints: tuple[str, ...]  # keys whose signatures are right
    others: tuple[str, ...]  # fingerprints of signatures by keys that nobody named


def pae(payload: bytes) -> bytes:
    """Returns the bytes that are signed for a payload (DSSE's pre-authentication encoding)."""
    return b" ".join((b"DSSEv1", b"%d" % len(PAYLOAD), PAYLOAD.encode(), b"%d" % len(payload), payload))


def sign_folder(folder: str | Path, key_file: str | Path) -> Signed:
    """Signs every file of a folder; a signature by the same key is replaced, others stay.

    Raises InputError for a folder with links, and for a file that is no private key.
    """
    folder, key = Path(folder), read_private(key_file)
    digests = resources_of(folder)
    payload = statement_of(folder.absolute().name, digests)
    envelope = {
        "payload": base64.b64encode(payload).decode(),
        "payloadType": PAYLOAD,
        "signatures": [{"sig": base64.b64encode(key.sign(pae(payload))).decode(), "keyid": ""}],
    }
    material = {"publicKey": {"hint": key.public.fingerprint}, "tlogEntries": []}
    bundle = {"mediaType": MEDIA, "verificationMaterial": material, "dsseEnvelope": envelope}
    place = folder / FOLDER
    place.mkdir(exist_ok=True)
    path = place / f"{key.public.fingerprint}{SUFFIX}"
    write_durable(path, json.dumps(bundle).encode())
    return Signed(str(path), key.public.fingerprint, len(digests))


def verify_folder(folder: str | Path, keys: Sequence[PublicKey]) -> Verified:
    """Verifies the signatures of a folder by `keys`, and that each covers exactly the files that are there.

    A signature by another key is reported and proves nothing. Raises InputError for a wrong signature by one of `keys`,
    for a file that is missing, altered or not covered, and for a damaged signature of whomever.
    """
    folder = Path(folder)
    digests = resources_of(folder)
    known = {key.fingerprint: key for key in keys}
    verified, others = [], []
    for path in sorted((folder / FOLDER).glob("*")) if (folder / FOLDER).is_dir() else ():
        try:
            hint, payload, signature = read_bundle(path)
            if hint not in known:
                others.append(hint)
                continue
            if not known[hint].verifies(signature, pae(payload)):
                raise InputError(f"the signature is wrong for the key {known[hint].file}")
            _require_same(folder, signed_digests(payload), digests)
        except InputError as error:
            raise InputError(f"{path}: {error}; restore the folder from a copy, or sign it again") from error
        verified.append(hint)
    return Verified(str(folder), tuple(dict.fromkeys(verified)), tuple(others))


def read_bundle(path: Path) -> tuple[str, bytes, bytes]:
    """Returns (fingerprint of the key, payload, signature); raises InputError for anything but a bundle of one key."""
    if path.is_symlink() or not path.is_file():
        raise InputError("no plain file")
    values = strict_json(path.read_bytes())
    try:
        if values["mediaType"] != MEDIA:
            raise InputError(f"mediaType {shown(values['mediaType'])}, expected {MEDIA}")
        if strange := sorted(set(values) - {"mediaType", "verificationMaterial", "dsseEnvelope"}):
            raise InputError(f"{strange[0]}: unknown part of a bundle")
        hint, envelope = values["verificationMaterial"]["publicKey"]["hint"], values["dsseEnvelope"]
        if envelope["payloadType"] != PAYLOAD:
            raise InputError(f"payloadType {shown(envelope['payloadType'])}, expected {PAYLOAD}")
        (signature,) = envelope["signatures"]
        return str(hint), _decoded(envelope["payload"]), _decoded(signature["sig"])
    except (KeyError, TypeError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"no bundle of one bare key ({type(error).__name__}: {error})") from error


def _decoded(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, TypeError) as error:
        raise InputError(f"no base64: {error}") from error


def _require_same(folder: Path, signed: dict[str, str], present: dict[str, str]) -> None:
    """Raises InputError unless the signed files are those that are there."""
    for name in sorted({*signed, *present}):
        if name not in present:
            raise InputError(f"{folder / name}: signed, and missing")
        if name not in signed:
            raise InputError(f"{folder / name}: not covered by the signature")
        if signed[name] != present[name]:
            raise InputError(f"{folder / name}: altered after it was signed")
