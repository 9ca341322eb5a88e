"""The grafted parts: sites and patterns, methods, heads, the graft artefact, PEFT interchange.

Importing this package imports no jax; its modules do. AdapterHub's distribution `adapters` installs
into a folder of the same name: the two must not share one environment (see `backbone.ownership`).
"""

TOPGRAFT = "adapters"
