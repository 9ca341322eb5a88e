"""The methods, one file each: settings, code and registration together. `method.py` holds their bases.

A new method is one new file here (`docs/extending.md`). It is found by its folder: there is no list to add it to.
Importing a method imports no jax.
"""
