"""Limits of a request, and the bearer tokens of those who may send one."""

from __future__ import annotations

import hmac
from dataclasses import dataclass
from pathlib import Path

from backbone.errors import InputError


@dataclass(frozen=True)
class Limits:
    """Limits beyond which a request is refused before it costs anything."""

    body_bytes: int = 1 << 20  # largest body of a request
    inputs: int = 256  # texts of a request
    tasks: int = 32  # tasks of a request
    characters: int = 20_000  # characters of a text
    body_seconds: float = 10.0  # seconds for a body to arrive
    seconds: float = 10.0  # seconds for an answer; a request may ask for fewer
    tasks_in_metrics: int = 200  # tasks with label values of their own in a metric; the others count as `other`

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value <= 0:
                raise InputError(f"{name}: must be positive, got {value}")


@dataclass(frozen=True)
class Tokens:
    """Bearer tokens; with none of them, everybody may send requests."""

    known: tuple[str, ...] = ()

    @classmethod
    def read(cls, file: str | Path | None) -> Tokens:
        """Reads one token of at least 16 characters from each line; raises InputError."""
        if file is None:
            return cls()
        try:
            lines = Path(file).read_text(encoding="ascii").split()
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"{file}: cannot be read as a list of tokens: {error}") from error
        if not lines or any(len(token) < 16 for token in lines):
            raise InputError(f"{file}: expected tokens of at least 16 characters, one a line")
        return cls(tuple(lines))

    def admits(self, header: str) -> bool:
        """Returns whether an Authorization header holds a known token. Compares every known one in full."""
        scheme, _, given = header.partition(" ")
        matches = [hmac.compare_digest(given.strip().encode(), token.encode()) for token in self.known]
        return not self.known or (scheme.lower() == "bearer" and any(matches))
