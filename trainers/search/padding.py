"""Trials of different rank and scale in one compiled program: leaves padded with zeros, and factors as data.

    shared = shared_model([rank_2, rank_4, rank_16])       # the model of rank 16
    factors = factors_of(rank_2, shared)                   # one array for each leaf of the adapter
    shared.logits(backbone, {"adapter": scaled(padded, factors), ...})   # what rank_2 computes with its leaves

A bank pads and rescales leaves in the same way (`SiteMethod.bank_leaves`), so the factors are what it makes of ones:
the ratio of two scales where the trial has a leaf, and zero where it was padded. A padded entry gets no gradient, and
stays zero. A method whose bank does anything but multiply and pad is shared by equal settings alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from typing import Any, cast

import numpy as np

from adapters.methods.method import Method, SiteMethod
from adapters.model import GraftModel
from backbone.trees import Params, flatten, map_leaves, unflatten


def shared_model(models: Sequence[GraftModel]) -> GraftModel | None:
    """Returns the model that all of `models` can be padded to, the first one where they are equal; None without one."""
    first = models[0]
    for model in models[1:]:
        if (model.head, model.labels, model.network) != (first.head, first.labels, first.network):
            return None
        if len(model.methods) != len(first.methods):
            return None
    methods: list[Method] = []
    for each in zip(*(model.methods for model in models), strict=True):
        widest = _widest(each, first)
        if widest is None:
            return None
        methods.append(widest)
    shared = replace(first, methods=tuple(methods))
    return shared if all(_only_multiplied(model, shared) for model in models) else None


def _widest(methods: Sequence[Method], model: GraftModel) -> Method | None:
    """Returns the settings to which all of `methods` can be padded, with the dropout that they share."""
    encoder, result = model.network.spec, methods[0]
    for method in methods[1:]:
        if method == result:
            continue
        if type(method) is not type(result) or not method.acts_at_sites or _left(method) != _left(result):
            return None
        wider = result.widest(cast(Any, method), encoder)
        if wider is None:
            return None
        names = {field.name for field in fields(cast(Any, wider))} & {"dropout"}
        result = replace(cast(Any, wider), **{name: getattr(result, name) for name in names})
    return result


def _left(method: Method) -> dict[str, Any]:
    """Returns the fields of a method that padding and factors cannot change."""
    site = cast(SiteMethod, method)
    free = {*site.free_in_bank} - {"sites", "blocks", "dropout", "overrides", "scaling"}
    return {f.name: getattr(method, f.name) for f in fields(cast(Any, method)) if f.name not in free}


def _only_multiplied(model: GraftModel, shared: GraftModel) -> bool:
    """Returns whether `shared` computes what `model` does once its leaves are padded and multiplied."""
    if model == shared:
        return True
    draw = np.random.default_rng(0)
    leaves = map_leaves(lambda leaf: draw.normal(size=leaf.shape).astype(np.float32), model.abstract()["adapter"])
    expected = flatten(_in_bank(model, shared, leaves))
    made = flatten(scaled(padded(leaves, shared), factors_of(model, shared)))
    return expected.keys() == made.keys() and all(
        expected[path].shape == made[path].shape and np.allclose(expected[path], made[path], rtol=1e-6)
        for path in expected
    )


def factors_of(model: GraftModel, shared: GraftModel) -> Params:
    """Returns the factors float32 of the padded adapter leaves of `model`, in the tree of `shared`."""
    ones = map_leaves(lambda leaf: np.ones(leaf.shape, np.float32), model.abstract()["adapter"])
    return ones if model == shared else _in_bank(model, shared, ones)


def _in_bank(model: GraftModel, shared: GraftModel, adapter: Params) -> Params:
    """Returns the leaves as a bank compiled for `shared` holds them."""
    result = flatten(adapter)
    for name, (method, settings) in model.site_parts.items():
        in_bank = shared.site_parts[name][1]
        for site, setting in settings.items():
            leaves = adapter[name][str(site.block)][site.name]
            made = method.bank_leaves(setting, leaves, in_bank[site])
            place = f"{name}.{site.block}.{site.name}"
            result |= flatten(unflatten({f"{place}.{leaf}": value for leaf, value in made.items()}))
    return unflatten(result)


def padded(adapter: Params, shared: GraftModel) -> Params:
    """Returns adapter leaves with zeros behind them, in the shapes of `shared`."""
    shapes, leaves = flatten(shared.abstract()["adapter"]), flatten(adapter)

    def pad(path: str) -> np.ndarray:
        leaf = np.asarray(leaves[path])
        ends = [(0, size - length) for size, length in zip(shapes[path].shape, leaf.shape, strict=True)]
        return np.pad(leaf, ends)

    return unflatten({path: pad(path) for path in leaves})


def scaled(adapter: Mapping[str, Any], factors: Mapping[str, Any]) -> Params:
    """Returns the leaves of an adapter, or of a part of it, each multiplied by its factor."""
    by_path = flatten(factors)
    product = {path: leaf * by_path[path] for path, leaf in flatten(adapter).items()}
    return unflatten(product)


def multiplied(params: Params, factors: Params) -> Params:
    """Returns the parameters of a graft as the shared model reads them."""
    return {**params, "adapter": scaled(params.get("adapter", {}), factors)}
