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


def merge(model: GraftModel, backbone: Params, adapter: Params) -> Params:
    """Returns backbone weights with every site method folded in: a plain forward pass then gives the graft's states.

    Raises InputError naming the method whose algebra does not allow it (bottleneck, prefix, router), for weights that
    are not float32 (rounded once more, they would be another graft), for blocks that share their weights, and for a
    kernel of low rank, which a sum with an adapter's is not.
    """
    spec = model.network.spec
    if spec.shares_weights and model.adapted_blocks:
        raise InputError(
            f"merge: the {spec.blocks} blocks have {spec.groups} sets of weights: an adapter merged into one block "
            f"would act in all that share them; serve the graft beside its backbone"
        )
    if any(isinstance(leaf, Stored) for leaf in flatten(backbone).values()):
        raise InputError("merge: an adapter is merged into float32 weights; load the backbone with precision=float32")
    merged = jax.tree.map(lambda leaf: leaf, backbone)
    for name, (method, settings) in model.site_parts.items():
        for site, setting in settings.items():
            weights = model.network.block_weights(merged, site.block)
            leaves = leaves_at(adapter.get(name, {}), site)
            if site.name in NORM:
                norm = node_at(weights, site)
                patched = method.norm(setting, leaves, norm["scale"], norm["bias"], Call(None, None))
                norm["scale"], norm["bias"] = patched
                continue
            node, part = site_weights(weights, site)
            if "low" in node:
                raise InputError(
                    f"{name}: the kernel at {site.full_name} has rank {spec.mlp_rank}, a merged one has not"
                )
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
    if site.name in (QUERY, KEY, VALUE):
        first = _first_column(site)
        return block["attention"]["qkv"], slice(first, first + site.outputs)
    return node_at(block, site), slice(None)


def place_of(site: Site) -> tuple[str, int]:
    """Returns the dotted path of the dense layer that holds a linear site, and the site's first column in it."""
    if site.name in (QUERY, KEY, VALUE):
        return f"blocks.{site.block}.attention.qkv", _first_column(site)
    return f"blocks.{site.block}.{site.name.replace('/', '.')}", 0


def _first_column(site: Site) -> int:
    """Returns the first column of query, key or value in their common kernel."""
    width = site.inputs  # query is as wide as its input, key and value perhaps not
    return {QUERY: 0, KEY: width, VALUE: width + site.outputs}[site.name]


def node_at(block: Params, site: Site) -> dict[str, Array]:
    """Returns the parameters at a site's name."""
    node: Any = block
    for key in site.name.split("/"):
        node = node[key]
    return node
