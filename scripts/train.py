"""`topgraft train`, for people who work in a checkout: python scripts/train.py ..."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from topgraft import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
