"""The head of masked language modelling, and the file that keeps the head of any objective.

The head is a dense layer with the backbone's activation, a LayerNorm and a decoder. The decoder is the token embedding
(tied) with a new bias (Devlin et al. 2018; transformers' `BertForMaskedLM`). Where embeddings are narrower than the
blocks, the dense layer has their width (Lan et al. 2019; transformers' `AlbertForMaskedLM`). A head is no part of a
backbone. It lies beside it in `head.safetensors` of a run, and names the weights it was trained with.

Shapes: N positions, D width, E width of the embeddings (D, if they are not narrower), V vocabulary.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from backbone.errors import InputError
from backbone.files import write_durable
from backbone.network.activations import ACTIVATIONS
from backbone.network.encoder import INIT_STD
from backbone.spec import EncoderSpec
from backbone.texts import load_json
from backbone.trees import Params, flatten, require_same_structure, unflatten

Array = jax.Array

HEAD_FILE = "head.safetensors"
ABOUT = "topgraft"  # key of the file's metadata: JSON of `labels`, a list, and `weights_id`
LEAVES = ("decoder.bias", "dense.bias", "dense.kernel", "norm.bias", "norm.scale")  # paths in a masked head


def init_head(spec: EncoderSpec, rng: Array) -> Params:
    """Returns a fresh head, float32."""
    width = spec.embedding_width or spec.width
    return {
        "dense": {
            "kernel": INIT_STD * jax.random.truncated_normal(rng, -2, 2, (spec.width, width)),
            "bias": jnp.zeros((width,)),
        },
        "norm": {"scale": jnp.ones((width,)), "bias": jnp.zeros((width,))},
        "decoder": {"bias": jnp.zeros((spec.vocabulary,))},
    }


def abstract_head(spec: EncoderSpec) -> Params:
    """Returns the shapes and dtypes of `init_head`."""
    return jax.eval_shape(lambda: init_head(spec, jax.random.key(0)))


def head_logits(spec: EncoderSpec, head: Params, table: Array, hidden: Array) -> Array:
    """Computes logits float32 [N,V] from finished states [N,D] and the token embedding `table` [V,E]."""
    y = head_states(spec, head, hidden)
    logits = jnp.einsum("nd,vd->nv", y, table.astype(y.dtype), preferred_element_type=jnp.float32)
    return logits + head["decoder"]["bias"].astype(jnp.float32)


def head_states(spec: EncoderSpec, head: Params, hidden: Array) -> Array:
    """Computes the states [N,E] that the decoder multiplies, from finished states [N,D], in their dtype."""
    dense, norm = head["dense"], head["norm"]
    y = hidden @ dense["kernel"].astype(hidden.dtype) + dense["bias"].astype(hidden.dtype)
    y = ACTIVATIONS[spec.activation](y).astype(jnp.float32)
    y -= y.mean(axis=-1, keepdims=True)
    y *= jax.lax.rsqrt(jnp.square(y).mean(axis=-1, keepdims=True) + spec.norm_epsilon)
    return (y * norm["scale"] + norm["bias"]).astype(hidden.dtype)


def save_head(folder: Path, head: Params, weights_id: str, labels: Sequence[str] = ()) -> None:
    """Writes `head.safetensors` beside a backbone, in one step; `labels` name a classifier's outputs."""
    tensors = {path: np.asarray(leaf, np.float32, order="C") for path, leaf in flatten(head).items()}
    about = json.dumps({"labels": list(labels), "weights_id": weights_id})
    write_durable(folder / HEAD_FILE, save(tensors, {ABOUT: about}))  # one key: safetensors writes several in any order


def holds_masked_head(folder: Path) -> bool:
    """Returns whether a run keeps a head, and its tensors are those of masked language modelling."""
    if not (folder / HEAD_FILE).is_file():
        return False
    leaves, _ = _read_head(folder / HEAD_FILE)
    return sorted(leaves) == list(LEAVES)


def load_head(folder: Path, expected: Params, weights_id: str, labels: Sequence[str] = ()) -> Params:
    """Reads the head beside the backbone `weights_id`; `expected` has its structure, in arrays or their shapes.

    Raises InputError if it is damaged, another backbone's, or has other labels.
    """
    path = folder / HEAD_FILE
    leaves, about = _read_head(path)
    stored = about["labels"]
    if stored != list(labels):
        raise InputError(
            f"{path}: the outputs of the head are {', '.join(stored) or 'tokens'}, the data's labels are "
            f"{', '.join(labels) or 'tokens'}; set start_head=fresh"
        )
    require_same_structure(unflatten(leaves), expected, str(path))
    owner = about["weights_id"]
    if owner != weights_id:
        raise InputError(
            f"{path}: belongs to weights {owner[:19]}..., the backbone beside it is {weights_id[:19]}...: "
            f"finish the run with --resume"
        )
    return unflatten(leaves)


def _read_head(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Returns the tensors and the metadata of a file. Raises InputError if it is missing or damaged."""
    try:
        with safe_open(path, framework="numpy") as file:
            about = load_json((file.metadata() or {})[ABOUT])
            return {name: file.get_tensor(name) for name in file.keys()}, about  # noqa: SIM118
    except FileNotFoundError:
        raise InputError(f"{path}: missing; a run of train-backbone keeps its head there") from None
    except KeyError:
        raise InputError(f"{path}: does not say whose head it is; run train-backbone again") from None
    except (SafetensorError, OSError, ValueError) as error:
        raise InputError(f"{path}: truncated or not a safetensors file: {error}") from error
