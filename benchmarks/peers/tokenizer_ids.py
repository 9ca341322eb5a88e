"""transformers' side of `benchmarks/tokenizers.py`: ids of texts from folders, by `AutoTokenizer`.

Reads {"folders": [...], "texts": [...], "cut": N} from stdin. Writes a line of JSON for each folder: {"ids": [...]}, or
{"error": "..."} where the folder gives no tokenizer or one that fails. Needs transformers; no jax.
"""

from __future__ import annotations

import json
import sys

import transformers


def main() -> None:
    """Obeys one command."""
    command = json.load(sys.stdin)
    transformers.logging.set_verbosity_error()
    for folder in command["folders"]:
        try:
            tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
            answer = {"ids": tokenizer(command["texts"], truncation=True, max_length=command["cut"])["input_ids"]}
        except Exception as error:  # noqa: BLE001 - the tokenizers library raises plain Exception
            answer = {"error": f"{type(error).__name__}: {error}"[:200]}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
