"""A BERT of 4 blocks and width 256, with its own WordPiece, on 24 novels and two parts of WikiText-2.

topgraft train-backbone text_mlm --workdir runs/text_mlm    # data in $TOPGRAFT_DATA, default ../shared/data

5.2 million parameters; 15 MB of text, 3.7 million tokens, a vocabulary of 8,000. The 4,000 steps read the text once:
39 minutes on two cores of an AMD EPYC, held-out loss 4.46, 2.01 nats below the unigram entropy (benchmarks/README.md).
--set max_seconds=3600 stops after an hour, and --resume goes on.
"""

from pathlib import Path

from trainers.config import Optimizer, data_root
from trainers.pretraining.config import BackboneConfig, Corpus, MaskedTokens, NewBert, WordPiece


def get_config() -> BackboneConfig:
    root = Path(data_root())
    wikitext = root / "wikitext2_valid_test"
    return BackboneConfig(
        name="text_mlm",
        corpus=Corpus(
            files=(str(root / "english_novels" / "corpus"), str(wikitext / "valid.txt"), str(wikitext / "test.txt")),
            tokens=128,
        ),
        tokenizer=WordPiece(vocabulary=8000),
        network=NewBert(blocks=4, width=256, heads=4, mlp_width=1024, first_weights="local"),
        objective=MaskedTokens(fraction=0.4),  # Wettig et al. 2023; more predictions from the text that there is
        optimizer=Optimizer(
            learning_rate=1e-3, schedule="linear", warmup_fraction=0.03, weight_decay=0.01, clip_norm=1.0
        ),
        steps=4000,
        batch_size=8,
    )
