"""AdapterHub's side of `benchmarks/methods.py`; the protocol is that of `torch_steps.py`.

`config` of a command is a configuration of `adapters` by the name of its class, and its fields:
{"name": "SeqBnConfig", "reduction_factor": 8}. Needs torch, transformers and adapters; no jax.
"""

from __future__ import annotations

from typing import Any

import torch
import transformers
from torch_steps import obey, timed

import adapters


def measure(folder: str, command: dict[str, Any]) -> dict[str, Any]:
    """One method, in a fresh model."""
    torch.manual_seed(0)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder, num_labels=command["labels"])
    adapters.init(model)
    fields = dict(command["config"])
    model.add_adapter("measured", config=getattr(adapters, fields.pop("name"))(**fields))
    model.train_adapter("measured")
    return timed(model.train(), command)


if __name__ == "__main__":
    modules = (torch, transformers, adapters)
    obey("AdapterHub's side", measure, {f"{m.__name__} of adapterhub": m.__version__ for m in modules})
