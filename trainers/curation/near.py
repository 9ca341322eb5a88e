"""Near-duplicates by cached states: rows whose pooled states point almost the same way.

Source: Abbas et al. 2023 (SemDeDup, arXiv 2303.09540). The first row of each stays, in the canonical order of the data.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

BLOCK = 256  # rows that are compared with all rows before them at a time


@dataclass(frozen=True)
class NearRow:
    """A row that is left out because another one says almost the same."""

    row: int  # number of the row
    of: int  # number of the row that stays
    cosine: float  # cosine of their states


def near_duplicates(states: np.ndarray, members: np.ndarray, threshold: float) -> list[NearRow]:
    """Returns the rows `members` whose cosine with an earlier one that stays is at least `threshold`.

    `states` float32 [N,D] have length one. At most `BLOCK` times M similarities are in memory.
    """
    kept = np.zeros(len(members), int)  # numbers of the rows that stay, the first `count` of them
    stay = np.zeros((len(members), states.shape[1]), np.float32)  # their states
    count, near = 0, list[NearRow]()
    for first in range(0, len(members), BLOCK):
        block = members[first : first + BLOCK]
        x = states[block]
        outside, inside = x @ stay[:count].T, x @ x.T  # [B,count], [B,B]
        staying = list[int]()
        for i, row in enumerate(block):
            best, of = (float(outside[i].max()), int(kept[outside[i].argmax()])) if count else (-1.0, -1)
            for j in staying:
                if inside[i, j] > best:
                    best, of = float(inside[i, j]), int(block[j])
            if best >= threshold:
                near.append(NearRow(int(row), of, best))
            else:
                staying.append(i)
        kept[count : count + len(staying)], stay[count : count + len(staying)] = block[staying], x[staying]
        count += len(staying)
    return near
