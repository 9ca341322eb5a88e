"""How a backbone is trained: config, text and images, objectives, loop."""
