"""Signatures of folders in the form of OpenSSF Model Signing, with bare keys."""
