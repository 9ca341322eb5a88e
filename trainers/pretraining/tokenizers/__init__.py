"""One file per way to come by the tokenizer of a new backbone."""

from trainers.pretraining.tokenizers.tokenizer import TokenizerSource

__all__ = ["TokenizerSource"]
