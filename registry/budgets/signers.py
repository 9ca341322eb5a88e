"""The keys that must have signed what goes live: a policy of the team's file. Imports no jax.

    [signatures]
    required = 2

    [[signatures.key]]
    file = "keys/release.pub"
    owner = "release team"
    until = 2027-12-31

A key that is revoked, or whose last day is over, counts no more. So keys are rotated: the new one is added, grafts are
signed by both, the former one ends.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from datetime import date
from pathlib import Path

from backbone.errors import InputError
from registry.budgets.limits import utc_today
from registry.entries import RegistryError


class Unsigned(RegistryError):
    """A graft that too few of the team's keys have signed, so it does not go live."""

    exit_status = 10


@dataclass(frozen=True)
class Signer:
    """One key of the policy."""

    file: str  # public key in PEM
    owner: str
    source: str  # file and line of its entry
    until: date | None = None  # last day, in UTC; None: no end
    revoked: str = ""  # reason why it counts no more; "" while it does

    def ended(self, today: date) -> str:
        """Returns why the key counts no more; "" while it does."""
        if self.revoked:
            return f"{self.file} of {self.owner} is revoked ({self.source}): {self.revoked}"
        if self.until is not None and today > self.until:
            return f"{self.file} of {self.owner} ended on {self.until} ({self.source})"
        return ""


@dataclass(frozen=True)
class Signers:
    """The policy; without one nothing needs a signature."""

    required: int = 0  # different keys that must have signed
    keys: tuple[Signer, ...] = ()
    source: str = ""  # file and line

    def require_different(self) -> None:
        """Raises InputError for a key that two entries name: one that is revoked would count by the other.

        Without the library `cryptography` nobody can tell; `require` asks for it then.
        """
        if importlib.util.find_spec("cryptography") is not None:
            self._fingerprints()

    def _fingerprints(self) -> dict[str, Signer]:
        """Returns the keys by fingerprint; raises InputError for two entries of one."""
        from backbone.signing.keys import read_public

        keys: dict[str, Signer] = {}
        for one in self.keys:
            first = keys.setdefault(read_public(one.file).fingerprint, one)
            if first is not one:
                raise InputError(
                    f"{one.source}: {one.file} is the key of {first.source} again, {first.file}; keep one entry a key"
                )
        return keys

    def require(self, folder: str | Path, today: date | None = None) -> None:
        """Verifies a folder; raises Unsigned where too few keys that count have signed it.

        Raises InputError for a wrong signature by one of the keys, and for a file that was altered, removed or added.
        """
        if not self.required:
            return
        from backbone.signing.bundle import verify_folder
        from backbone.signing.keys import read_public

        day = today or utc_today()
        keys = self._fingerprints()
        result = verify_folder(folder, [read_public(one.file) for one in keys.values()])
        ended = [reason for one in result.fingerprints if (reason := keys[one].ended(day))]
        good = len(result.fingerprints) - len(ended)
        if good < self.required:
            raise Unsigned(
                f"{folder}: signed by {good} keys that count, {self.source} asks for {self.required}"
                + "".join(f"; {reason}" for reason in ended)
                + f"; sign it: topgraft sign {folder} --key KEY"
            )

    def require_key(self, private: str, today: date | None = None) -> None:
        """Raises InputError unless a private key alone satisfies the policy: a retraining has no other signer."""
        if not self.required:
            return
        if not private:
            raise InputError(f"--sign: {self.source} asks for a signature; name a private key, or use --no-promote")
        from backbone.signing.keys import read_private, read_public

        mine = read_private(private).public.fingerprint
        counting = [one for one in self.keys if not one.ended(today or utc_today())]
        if all(read_public(one.file).fingerprint != mine for one in counting):
            raise InputError(f"--sign: {private} is none of the keys that count at {self.source}")
        if self.required > 1:
            raise InputError(
                f"--sign: {self.source} asks for {self.required} signers; use --no-promote, let them sign the version "
                "in the store, and promote it by hand"
            )
