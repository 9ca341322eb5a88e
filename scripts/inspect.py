"""`topgraft inspect`, for people who work in a checkout: python scripts/inspect.py ..."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from topgraft import main

if __name__ == "__main__":
    sys.exit(main(["inspect", *sys.argv[1:]]))
