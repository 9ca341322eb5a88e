"""The trunk: encoders, import, preprocessing, length buckets and storage.

A backbone is an architecture and its weights, computed once and then frozen. Importing this
package imports no jax; its modules do.
"""
