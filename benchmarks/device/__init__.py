"""The parts of `benchmarks/accelerator.py`, each a process of its own, and PyTorch's side of one of them."""
