"""Trunk and grafts at work: loading a graft and answering with it.

Importing this package imports no jax; its modules do.
"""

from backbone.ownership import require_own

require_own("adapters")
