"""Mutants, by hand: wrong changes of training, caches, gate, registry and artefact, and of what is read and exchanged.

`python -m tests.mutants` applies each to a copy of the tree and runs the test that is meant to fail. A mutant that
survives means that a test is missing.
"""

from tests.mutants.exactness import EXACTNESS
from tests.mutants.mutant import Mutant
from tests.mutants.promotion import PROMOTION
from tests.mutants.storage import STORAGE
from tests.mutants.training import TRAINING

MUTANTS: tuple[Mutant, ...] = (*TRAINING, *STORAGE, *PROMOTION, *EXACTNESS)
