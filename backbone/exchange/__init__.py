"""Other programs' folders, in and out: weights, tokenizers, Hugging Face's layout."""
