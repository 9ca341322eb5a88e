"""The stored graft: manifest, tensors, canary, and what may lie beside them."""
