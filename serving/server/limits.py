"""What a server accepts, and who may ask."""

from __future__ import annotations

import hmac
from dataclasses import dataclass
from pathlib import Path

from backbone.errors import InputError


@dataclass(frozen=True)
class Limits:
    """Beyond these a request is refused before it costs anything."""

    body_bytes: int = 1 << 20  # of a request
    inputs: int = 256  # texts of a request
    tasks: int = 32  # tasks of a request
    characters: int = 20_000  # of a text
    body_seconds: float = 10.0  # for a body to arrive
    seconds: float = 10.0  # for an answer; a request may ask for less
    tasks_in_metrics: int = 200  # label values of a metric; what is beyond counts as `other`

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value <= 0:
                raise InputError(f"{name}: must be positive, got {value}")


@dataclass(frozen=True)
class Tokens:
    """Bearer tokens; none means that everybody may ask."""

    known: tuple[str, ...] = ()

    @classmethod
    def read(cls, file: str | Path | None) -> Tokens:
        """One token a line of at least 16 characters; raises InputError."""
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
        """Whether an Authorization header holds a known token; every known one is compared in full."""
        scheme, _, given = header.partition(" ")
        matches = [hmac.compare_digest(given.strip().encode(), token.encode()) for token in self.known]
        return not self.known or (scheme.lower() == "bearer" and any(matches))
