"""The verb `serve`: the runtime behind HTTP, following a registry or a folder."""
