"""Mutations of real files, and the readers that have to refuse them or to read them rightly (`soak_fuzz`)."""
