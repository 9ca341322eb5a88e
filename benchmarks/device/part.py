"""What every part shares: its options, the file that grows with each figure, and the device that it ran on."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any


class Part:
    """One part: the file `accelerator_NAME.json` is written again with every figure, so that a stop loses none."""

    def __init__(self, name: str, description: str):
        parser = argparse.ArgumentParser(description=description)
        parser.add_argument("--out", type=Path, required=True, help="folder of the results")
        parser.add_argument("--head", type=Path, required=True, help="JSON that every result begins with")
        parser.add_argument("--tiny", action="store_true", help="small shapes, to try the script on any machine")
        options = parser.parse_args()
        self.tiny: bool = options.tiny
        self.path: Path = options.out / f"accelerator_{name}.json"
        self.content: dict[str, Any] = {"benchmark": f"accelerator_{name}", **json.loads(options.head.read_text())}
        if self.tiny:
            self.content["tiny"] = True

    def add(self, **figures: Any) -> None:
        """Writes figures, in place of former ones of the same name, and prints them on one line."""
        self.content |= figures
        self.path.write_text(json.dumps(self.content, indent=1) + "\n")
        print(self.content["benchmark"], json.dumps(figures)[:600], flush=True)


def described() -> dict[str, Any]:
    """Returns what jax runs on here."""
    import jax

    device = jax.devices()[0]
    memory = device.memory_stats() or {}
    return {
        "kind": device.device_kind,
        "platform": device.client.platform_version.splitlines()[0],
        "bytes": memory.get("bytes_limit"),
    }


def problem(error: BaseException) -> str:
    """Returns an error in one short text, for the file."""
    return f"{type(error).__name__}: {error}"[:600]
