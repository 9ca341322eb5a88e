"""`topgraft retrain`, for people who work in a checkout: python scripts/retrain.py ..."""

import sys
from pathlib import Path

sys.path[0] = str(
    Path(__file__).resolve().parent.parent
)  # in place of scripts/, whose inspect.py would shadow Python's

from topgraft import main  # noqa: E402

if __name__ == "__main__":
    sys.exit(main(["retrain", *sys.argv[1:]]))
