"""Formats of data files, one file each; `format` says what a format states."""
