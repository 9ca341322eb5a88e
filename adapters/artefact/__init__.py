"""The stored graft: manifest, tensors, canary, and the optional parts beside them."""
