"""One file a head: its settings, its code and its registration. `adapters.heads.head` says what a head states.

`backbone.variants.registered.variants(Head)` finds them all. Importing this package, or a head, imports no jax.
"""
