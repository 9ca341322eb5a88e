"""The ladder by hand: gated rungs of narrow blocks beside the backbone (Sung et al. 2022, section 3)."""

from __future__ import annotations

import numpy as np

from adapters.specs import Ladder
from tests import reference

EXAMPLES = {"ladder top": Ladder(reduction=2, blocks="1:")}


def formula(method, p, states, encoder):
    first = int(method.blocks.rstrip(":") or 0)
    side = 0.0
    for rung, tap in enumerate(range(first + 1, len(states))):
        gate = 1 / (1 + np.exp(-p["down"][str(tap)]["gate"]))
        side = gate * states[tap] @ p["down"][str(tap)]["kernel"] + (1 - gate) * side
        side = reference.block(p["blocks"][str(rung)], side, method.side_encoder(encoder))
    return (states[-1] + side @ p["up"]["kernel"]).mean(0)
