"""A run on disk: its folder, checkpoints, logs and progress bars."""
