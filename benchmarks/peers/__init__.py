"""The other side of our comparisons; runs in an environment with PyTorch, transformers and PEFT."""
