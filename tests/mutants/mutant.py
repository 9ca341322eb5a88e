"""A mutant: one small wrong change of a production file, and the test that is meant to notice it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Mutant:
    """A wrong change, which a test has to notice."""

    file: str  # production file, from the root of the tree
    old: str  # text that is replaced; it stands in the file once
    new: str  # text in its place
    test: str  # test that is meant to fail: path, and names behind `::`
    why: str  # what would go wrong

    def applied_to(self, text: str) -> str:
        """Returns the wrong text; raises ValueError where the change no longer applies."""
        count = text.count(self.old)
        if count != 1 or self.old == self.new:
            raise ValueError(
                f"{self.file}: the text of the mutant {self.why!r} stands there {count} times, expected once; "
                f"write the mutant anew: {self.old!r}"
            )
        return text.replace(self.old, self.new)

    @property
    def test_file(self) -> str:
        """Returns the path of the test's module."""
        return self.test.partition("::")[0]

    def state(self, root: Path) -> str:
        """Returns a hash of the mutant with the production file and the test module as they are."""
        state = hashlib.sha256(repr(self).encode())
        for path in (self.file, self.test_file):
            state.update((root / path).read_bytes())
        return state.hexdigest()[:16]
