"""A new WordPiece vocabulary. The same paragraphs give the same vocabulary.

The library numbers continuations (`##a`) in the order of a hash map, and decides ties between merges by number.
Naming the continuations beforehand, in order, makes its result repeatable.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

from backbone.errors import InputError
from backbone.preprocessing import TextPreprocessing
from trainers.pretraining.tokenizers.tokenizer import TokenizerSource

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
RARE = 5  # characters seen less often get no token: words with them are [UNK]


@dataclass(frozen=True)
class WordPiece(TokenizerSource, tag="wordpiece"):
    """A new WordPiece vocabulary, trained on the corpus without its held-out paragraphs."""

    learned = True

    vocabulary: int = 8000  # largest number of tokens, special ones included; a small corpus gives fewer
    lowercase: bool = True  # also strips accents, as BERT's uncased models do

    def __post_init__(self) -> None:
        if self.vocabulary < 32:
            raise InputError(f"vocabulary: must be at least 32, got {self.vocabulary}")

    @property
    def max_vocabulary(self) -> int:
        return self.vocabulary

    def tokenizer(self, paragraphs: Iterable[str], max_tokens: int) -> TextPreprocessing:
        normaliser = normalizers.BertNormalizer(lowercase=self.lowercase)
        seen: Counter[str] = Counter()
        for text in paragraphs:
            seen.update(normaliser.normalize_str(text))
        letters = sorted(letter for letter, count in seen.items() if count >= RARE and letter != " ")
        continuations = [f"##{letter}" for letter in letters]
        if len(SPECIAL) + 2 * len(letters) > self.vocabulary:
            raise InputError(
                f"tokenizer.vocabulary: the corpus has {len(letters)} characters, which alone take "
                f"{len(SPECIAL) + 2 * len(letters)} tokens, got {self.vocabulary}"
            )
        learner = Tokenizer(models.WordPiece(unk_token="[UNK]"))
        learner.normalizer, learner.pre_tokenizer = normaliser, pre_tokenizers.BertPreTokenizer()
        learner.train_from_iterator(
            paragraphs,
            trainers.WordPieceTrainer(
                vocab_size=self.vocabulary,
                special_tokens=[*SPECIAL, *continuations],
                initial_alphabet=letters,
                limit_alphabet=len(letters),
                show_progress=False,
            ),
        )
        tokenizer = Tokenizer(models.WordPiece(learner.get_vocab(), unk_token="[UNK]"))
        tokenizer.normalizer, tokenizer.pre_tokenizer = normaliser, pre_tokenizers.BertPreTokenizer()
        tokenizer.add_special_tokens(list(SPECIAL))
        number = tokenizer.get_vocab()
        last, first = (("[SEP]", number["[SEP]"]), ("[CLS]", number["[CLS]"]))
        tokenizer.post_processor = processors.BertProcessing(last, first)
        return TextPreprocessing.from_file_text(tokenizer.to_str(), max_tokens, "the new WordPiece")
