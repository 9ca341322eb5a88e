"""The verb `retrain`: what changed, what that is worth, and whether the result may replace what is live.

    fingerprint -> diagnose -> decide -> train -> gate -> publish -> promote

Each step is one module; `run` tells the story. All state lies in the registry, so a run that dies
anywhere is simply run again. Until something has changed, nothing here imports jax.
"""
