"""The training of a backbone: config, text and images, objectives, networks, tokenizers, loop."""
