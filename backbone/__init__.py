"""The trunk: encoders, import, preprocessing, length buckets and storage; and the words that every package shares.

A backbone is an architecture and its weights, trained once and then frozen. Importing this package imports no jax; some
of its modules do. It sets the compiler's flags that this version of jaxlib needs, which jax reads
once, when its backend starts.
"""

from backbone.compiler_flags import add_needed

add_needed()
