"""Trunk and grafts at work: a runtime for many grafts, and the server on top of it.

Importing this package imports no jax; its modules do.
"""

from backbone.ownership import require_own

require_own("adapters")
