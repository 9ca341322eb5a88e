"""The verb `retrain`: the changes, the work they are worth, and the gate before the live version.

    fingerprint -> diagnose -> decide -> train -> gate -> publish -> promote

Each step is one module; `run` calls them in order. All state lies in the registry, so a run that dies anywhere is
simply run again. Until something has changed, nothing here imports jax.
"""
