"""Documents about a graft for other people's tools: a model card, a bill of materials, carbon scores."""
