"""PEFT's side of `benchmarks/methods.py`; the protocol is that of `torch_steps.py`.

`config` of a command holds the fields of a PEFT configuration: {"peft_type": "IA3", ...}. Needs torch, transformers
and peft; no jax.
"""

from __future__ import annotations

from typing import Any

import peft
import torch
import transformers
from torch_steps import obey, timed


def measure(folder: str, command: dict[str, Any]) -> dict[str, Any]:
    """One method, in a fresh model."""
    torch.manual_seed(0)
    base = transformers.AutoModelForSequenceClassification.from_pretrained(folder, num_labels=command["labels"])
    config = peft.get_peft_config({"task_type": "SEQ_CLS", **command["config"]})
    return timed(peft.get_peft_model(base, config), command)


if __name__ == "__main__":
    obey("PEFT's side", measure, {m.__name__: m.__version__ for m in (torch, transformers, peft)})
