"""A short drive of the state machine on both databases; `make soak-registry` drives it for minutes."""

from __future__ import annotations

import pytest

from tests.registry.machine import drive

EXAMPLES, STEPS = 3, 20


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_the_registry_is_what_the_model_says(kind, request, grafts):
    urls = request.getfixturevalue("postgres").schema if kind == "postgresql" else None
    assert drive(urls, grafts, EXAMPLES, STEPS) >= EXAMPLES * STEPS / 2
