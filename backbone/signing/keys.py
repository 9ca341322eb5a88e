"""Keys on the curves P-256, P-384 and P-521, as PEM files. The library `cryptography` is imported when one is read."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from backbone.errors import InputError

HASHES = {"secp256r1": "SHA256", "secp384r1": "SHA384", "secp521r1": "SHA512"}  # hash of a signature, by curve


@dataclass(frozen=True)
class PublicKey:
    """A key that verifies."""

    fingerprint: str  # SHA-256 of the key's PEM, hexadecimal: what a signature names
    file: str  # file it was read from
    key: Any  # key of the library

    def verifies(self, signature: bytes, message: bytes) -> bool:
        """Returns whether this key's owner signed the message."""
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives.asymmetric import ec

        try:
            self.key.verify(signature, message, ec.ECDSA(_hash_of(self.key)))
        except InvalidSignature:
            return False
        return True


@dataclass(frozen=True)
class PrivateKey:
    """A key that signs."""

    public: PublicKey
    key: Any  # key of the library

    def sign(self, message: bytes) -> bytes:
        """Returns an ECDSA signature in DER."""
        from cryptography.hazmat.primitives.asymmetric import ec

        signature: bytes = self.key.sign(message, ec.ECDSA(_hash_of(self.key.public_key())))
        return signature


def read_public(file: str | Path) -> PublicKey:
    """Reads a public key in PEM; raises InputError for another file, another kind of key, or without the library."""
    serialization, content = _library(), _content(file)
    try:
        key = serialization.load_pem_public_key(content)
    except (ValueError, TypeError) as error:
        raise InputError(f"{file}: no public key in PEM: {error}; `openssl ec -in KEY -pubout` writes one") from error
    return _public(key, str(file))


def read_private(file: str | Path) -> PrivateKey:
    """Reads a private key in PEM without a password; raises InputError as `read_public` does."""
    serialization, content = _library(), _content(file)
    try:
        key = serialization.load_pem_private_key(content, None)
    except TypeError as error:
        raise InputError(
            f"{file}: the key is encrypted, and its password is not asked for; `openssl pkey -in {file} -out PLAIN` "
            "writes it without one"
        ) from error
    except ValueError as error:
        raise InputError(
            f"{file}: no private key in PEM without a password: {error}; "
            "`openssl ecparam -name prime256v1 -genkey -noout` writes one"
        ) from error
    return PrivateKey(_public(key.public_key(), str(file)), key)


def _library() -> Any:
    try:
        from cryptography.hazmat.primitives import serialization
    except ImportError as error:
        raise InputError("signatures need the library `cryptography`: pip install 'topgraft[sign]'") from error
    return serialization


def _content(file: str | Path) -> bytes:
    try:
        return Path(file).read_bytes()
    except OSError as error:
        raise InputError(f"{file}: no readable key: {error}") from error


def _public(key: Any, file: str) -> PublicKey:
    """Returns a key with its fingerprint; raises InputError for one of another kind."""
    curve = getattr(getattr(key, "curve", None), "name", type(key).__name__)
    if curve not in HASHES:
        raise InputError(f"{file}: a key of {curve}; model signing takes the curves P-256, P-384 and P-521")
    serialization = _library()
    pem = key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    return PublicKey(hashlib.sha256(pem).hexdigest(), file, key)


def _hash_of(key: Any) -> Any:
    from cryptography.hazmat.primitives import hashes

    return getattr(hashes, HASHES[key.curve.name])()
