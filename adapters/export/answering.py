"""The answers of a graft as one traceable function of its weights: what the exports write down.

Shapes: B rows, T tokens, C labels.
"""

from __future__ import annotations

from collections.abc import Mapping

import jax

from adapters.artefact.scope import differences
from adapters.graft import Graft
from backbone.trees import Params


def weights_of(graft: Graft) -> Params:
    """Returns the weights that `answer` reads; of the backbone, the blocks below the highest boundary in use."""
    top = max(*graft.model.taps, graft.scope.boundary if graft.scope else 0)
    backbone = {
        name: part
        for name, part in graft.backbone.params.items()
        if name != "pooler" or graft.model.head.pooling == "pooler"
    }
    used = {graft.backbone.spec.weights_key(block) for block in range(top)}
    blocks = {key: block for key, block in backbone.get("blocks", {}).items() if key in used}
    scope = {} if graft.scope is None else graft.scope.arrays()
    return {"backbone": {**backbone, "blocks": blocks}, "graft": graft.params, "scope": scope}


def by_path(weights: Params) -> dict[str, jax.Array]:
    """Returns every array by its dotted path; a stored leaf has one for each of its arrays (`kernel.values`)."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(weights)
    return {".".join(str(getattr(key, "key", "") or key.name) for key in path): leaf for path, leaf in leaves}


def outputs_of(graft: Graft) -> list[str]:
    """Returns the names of the outputs of `answer`."""
    return ["logits", graft.model.head.output, *(["out_of_scope"] if graft.scope else [])]


def answer(graft: Graft, weights: Params, inputs: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
    """Computes the outputs by name, float32 [B,...], from `weights_of(graft)` and inputs as the network takes them."""
    model, head, scope = graft.model, graft.model.head, graft.scope
    backbone = {"blocks": {}, **weights["backbone"]}
    logits = model.logits(backbone, weights["graft"], inputs)
    outputs: dict[str, jax.Array] = {"logits": logits, head.output: head.exported(logits)}
    if scope is not None:
        hidden = model.network.embed(backbone, inputs)
        hidden = model.network.run_blocks(backbone, hidden, inputs["mask"], stop=scope.boundary)
        if scope.boundary == model.network.spec.blocks:
            hidden = model.network.finish(backbone, hidden)
        features = model.pooled(backbone, hidden, inputs["mask"])
        outputs["out_of_scope"] = scope.scaled(differences(features, weights["scope"]))
    return outputs
