"""`topgraft export`, for people who work in a checkout: python scripts/export.py ..."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from topgraft import main

if __name__ == "__main__":
    sys.exit(main(["export", *sys.argv[1:]]))
