"""The prospect of a trained step: the gain to expect of it, and what it will cost.

Trained blocks remove a share of a probe's errors, the larger the more rows a label has. A gain that is smaller than the
spread of the score on the development rows could not be told from chance, so the step would be paid for nothing.
The two numbers were set on the sets that docs/decisions.md names.
"""

from __future__ import annotations

from dataclasses import dataclass

REMOVED = 0.25  # share of a probe's errors that a trained step removes where rows abound
HALF = 300.0  # rows of a label from which it removes half of that share
STEPS_OF_A_PASS = 0.8  # cost of an epoch of the step `top`, in forward passes over the same rows


@dataclass(frozen=True)
class Prospect:
    """A step that may be tried."""

    name: str
    gain: float  # gain to expect, in the config's metric
    noise: float  # spread of the score on the development rows
    cpu_seconds: float | None  # price; None where no pass was timed

    @property
    def pays(self) -> bool:
        """Returns whether the development rows could show the gain."""
        return self.gain > self.noise

    def __str__(self) -> str:
        price = "a price not known" if self.cpu_seconds is None else f"about {self.cpu_seconds:.0f} CPU seconds"
        return f"{self.name}: gain to expect {self.gain:.4f}, noise {self.noise:.4f}, {price}"


def expected_gain(score: float, rows: int, labels: int) -> float:
    """Returns the gain to expect over a probe with `score` (1 is perfect) from `rows` rows of `labels` labels."""
    of_label = rows / max(labels, 1)
    return REMOVED * max(1.0 - score, 0.0) * of_label / (of_label + HALF)


def visible(spread: float, rows: int) -> float:
    """Returns the noise of a score on `rows` rows: its spread over resampled rows, or one row where that is more.

    Few rows may all be answered alike, and then the spread is zero, although they show nothing.
    """
    return max(spread, 1.0 / rows)
