"""BIO tags against seqeval; what is no tag."""

from __future__ import annotations

import numpy as np
from seqeval.metrics.sequence_labeling import get_entities

from adapters.labels.tagging import entities, fault, spans


def test_spans_are_those_of_seqeval_whatever_the_tags():
    draw = np.random.default_rng(0)
    for _ in range(300):
        tags = [str(t) for t in draw.choice(["O", "B-x", "I-x", "B-y", "I-y", "I-z-1", "B-z-1"], draw.integers(0, 9))]
        assert spans(tags) == [(kind, start, end + 1) for kind, start, end in get_entities(tags)], tags


def test_what_is_no_bio_tag():
    assert not fault("O", "I-x")
    assert not fault("B-x", "I-y")
    assert not fault("I-x", "B-x")
    assert "opens with 'B-x'" in fault("I-x", "B-y")
    assert "opens with 'B-x'" in fault("I-x", "O")
    for tag in ("x", "B", "B-", "E-x", ""):
        assert "is no BIO tag" in fault(tag, "O")
    assert entities(["to", "new", "york"], ["O", "B-city", "I-city"])[0].text == "new york"
