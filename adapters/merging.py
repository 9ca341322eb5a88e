"""Site methods folded into the backbone's weights, where the algebra allows it.

Serving one graft then costs exactly what the plain backbone costs.
"""

from __future__ import annotations

from typing import Any

import jax

from adapters.methods.method import Array, Call
from adapters.model import GraftModel
from adapters.patterns import Site, leaves_at
from backbone.errors import InputError
from backbone.network.sites import KEY, LINEAR, NORM, QUERY, VALUE
from backbone.network.stored import Stored
from backbone.trees import Params, flatten

_JOINT = (QUERY, KEY, VALUE)  # one array side by side, see backbone.network.encoder.Attention


def merge(model: GraftModel, backbone: Params, adapter: Params) -> Params:
    """Returns backbone weights with every site method folded in: a plain forward pass then gives the graft's states.

    Raises InputError naming the method whose algebra does not allow it (bottleneck, prefix, router), and for weights
    that are not float32: rounded once more, they would be another graft.
    """
    if any(isinstance(leaf, Stored) for leaf in flatten(backbone).values()):
        raise InputError("merge: an adapter is merged into float32 weights; load the backbone with precision=float32")
    merged = jax.tree.map(lambda leaf: leaf, backbone)
    for name, (method, settings) in model.site_parts.items():
        for site, setting in settings.items():
            leaves = leaves_at(adapter.get(name, {}), site)
            if site.name in NORM:
                norm = node_at(merged["blocks"][str(site.block)], site)
                patched = method.norm(setting, leaves, norm["scale"], norm["bias"], Call(None, None))
                norm["scale"], norm["bias"] = patched
                continue
            node, part = site_weights(merged["blocks"][str(site.block)], site)
            folded = method.merge(setting, leaves, node["kernel"][:, part], node["bias"][part]) if node else None
            if folded is None:
                raise InputError(f"{name}: cannot be merged into the weights at {site.full_name}")
            node["kernel"] = node["kernel"].at[:, part].set(folded[0])
            node["bias"] = node["bias"].at[part].set(folded[1])
    return merged


def site_weights(block: Params, site: Site) -> tuple[dict[str, Array], slice]:
    """Returns the dense layer that holds a linear site, and the site's columns in it; an empty dict elsewhere."""
    if site.name not in LINEAR:
        return {}, slice(None)
    if site.name in _JOINT:
        first = _JOINT.index(site.name) * site.outputs
        return block["attention"]["qkv"], slice(first, first + site.outputs)
    return node_at(block, site), slice(None)


def node_at(block: Params, site: Site) -> dict[str, Array]:
    """Returns the parameters at a site's name."""
    node: Any = block
    for key in site.name.split("/"):
        node = node[key]
    return node
