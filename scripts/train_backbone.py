"""`topgraft train-backbone`, for people who work in a checkout: python scripts/train_backbone.py ..."""

import sys
from pathlib import Path

sys.path[0] = str(
    Path(__file__).resolve().parent.parent
)  # in place of scripts/, whose inspect.py would shadow Python's

from topgraft import main  # noqa: E402

if __name__ == "__main__":
    sys.exit(main(["train-backbone", *sys.argv[1:]]))
