"""The shapes that are measured, with random weights, so that nothing but a checkout is needed."""

from __future__ import annotations

from dataclasses import dataclass, replace

from backbone.spec import EncoderSpec

MINILM = EncoderSpec(blocks=6, width=384, heads=12, mlp_width=1536, vocabulary=30522, positions=512)
BERT_BASE = EncoderSpec(blocks=12, width=768, heads=12, mlp_width=3072, vocabulary=30522, positions=512)
SMALL = EncoderSpec(blocks=3, width=64, heads=4, mlp_width=128, vocabulary=30522, positions=64)


@dataclass(frozen=True)
class Work:
    """The rows that a fill and a step run."""

    spec: EncoderSpec
    rows: int  # rows that states are kept of
    tokens: int  # tokens of each row
    filled: int  # rows of one batch of a fill
    batch: int  # rows of a step
    classes: int = 77  # labels, about Banking77


WORKS = {"minilm": Work(MINILM, 4096, 128, 128, 32), "bert_base": Work(BERT_BASE, 2048, 128, 128, 32)}


def works(tiny: bool) -> dict[str, Work]:
    """Returns the work by the name of its shape."""
    small = {"rows": 64, "tokens": 16, "filled": 8, "batch": 8}
    return {name: replace(work, spec=SMALL, **small) if tiny else work for name, work in WORKS.items()}
