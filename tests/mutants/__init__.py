"""Mutants, by hand: wrong changes of the step, stages, schedules, order, climb, caches, gate, registry and artefact.

`python -m tests.mutants` applies each to a copy of the tree and runs the test that is meant to fail. A mutant that
survives means that a test is missing.
"""

from tests.mutants.mutant import Mutant
from tests.mutants.promotion import PROMOTION
from tests.mutants.storage import STORAGE
from tests.mutants.training import TRAINING

MUTANTS: tuple[Mutant, ...] = (*TRAINING, *STORAGE, *PROMOTION)
