"""The trunk: encoders, import, preprocessing, length buckets and storage; and the words that every package shares.

A backbone is an architecture and its weights, trained once and then frozen. Importing this package imports no jax; some
of its modules do.
"""
