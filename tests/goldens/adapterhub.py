"""Writes `adapterhub.safetensors` with AdapterHub's `adapters`; run by `make goldens-adapterhub`.

The tiny BERT of `families/bert.safetensors` with bottleneck adapters in which nothing is at its start: their tensors
in half precision, and the last hidden states that `adapters` gives. An environment of its own, since `adapters`
holds transformers to an older series; neither jax nor Topgraft is imported.

AdapterHub's `seq_bn` reads the mlp's output after the block's norm, LN(x + y), a place that Topgraft's sites do not
name; with `original_ln_before=False` it reads y, as here and in figure 5 of Pfeiffer et al. 2020.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.numpy import save_file
from transformers import BertConfig, BertModel

import adapters
from adapters import DoubleSeqBnConfig, ParBnConfig, SeqBnConfig

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent.parent))

from tests.families import LENGTHS, token_rows  # noqa: E402

CONFIGS = {
    "houlsby": DoubleSeqBnConfig(reduction_factor=4),
    "pfeiffer": SeqBnConfig(reduction_factor=4, original_ln_before=False),
    "parallel": ParBnConfig(reduction_factor=4),
}
# bert.encoder.layer.0.attention.output.adapters.NAME.adapter_down.0.weight
LEAF = re.compile(r"encoder\.layer\.(\d+)\.(attention\.)?output\.adapters\.\w+\.adapter_(down\.0|up)\.(weight|bias)")


def tiny() -> BertModel:
    """The backbone of the goldens."""
    with safe_open(HERE / "families" / "bert.safetensors", framework="pt") as file:
        config = json.loads(file.metadata()["config"])
        weights = {n: file.get_tensor(n).float() for n in file.keys() if not n.startswith("states.")}  # noqa: SIM118
    model = BertModel(BertConfig(**config), add_pooling_layer=any("pooler" in name for name in weights))
    model.load_state_dict(weights)
    return model.eval()


@torch.inference_mode()
def golden(name: str, seed: int) -> dict[str, np.ndarray]:
    """Leaves named as a graft's, `BLOCK.SUBLAYER.LEAF`, and `states.N` of the rows."""
    model = tiny()
    adapters.init(model)
    model.add_adapter(name, config=CONFIGS[name])
    model.set_active_adapters(name)
    model.eval()
    torch.manual_seed(seed)
    kept: dict[str, np.ndarray] = {}
    for path, parameter in model.named_parameters():
        if found := LEAF.fullmatch(path):
            parameter.copy_((0.3 * torch.randn_like(parameter)).half().float())
            block, attention, part, kind = found.groups()
            leaf = part.removesuffix(".0") + ("_bias" if kind == "bias" else "")
            value = parameter.numpy().T if kind == "weight" else parameter.numpy()
            kept[f"{block}.{'attention' if attention else 'mlp'}.{leaf}"] = np.ascontiguousarray(value, np.float16)
    ids, mask = np.zeros((len(LENGTHS), max(LENGTHS)), np.int64), np.zeros((len(LENGTHS), max(LENGTHS)), np.int64)
    for i, row in enumerate(token_rows()):
        ids[i, : len(row)], mask[i, : len(row)] = row, 1
    output = model(input_ids=torch.from_numpy(ids), attention_mask=torch.from_numpy(mask))
    states = output.last_hidden_state.numpy()
    return kept | {f"states.{i}": states[i, :length].copy() for i, length in enumerate(LENGTHS)}


def main() -> None:
    kept = {}
    for seed, name in enumerate(CONFIGS):
        kept |= {f"{name}.{leaf}": value for leaf, value in golden(name, seed).items()}
    save_file(kept, HERE / "adapterhub.safetensors", {"adapters": adapters.__version__})


if __name__ == "__main__":
    main()
