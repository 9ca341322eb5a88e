"""The making of a graft: sources, splits, batches, the step, the loop, evaluation.

Importing this package imports no jax; its modules do.
"""

from backbone.ownership import require_own

require_own("adapters")
