"""The layers of the model that PEFT wraps, and PEFT's tensors sorted by them.

PEFT names a layer as the wrapped model does: `bert.encoder.layer.0.attention.self.query` inside a model of a task,
without `bert.` in the plain encoder. Its tensors begin with `base_model.model.`, and end with a name of the method.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from adapters.export.peft.names import Chosen
from adapters.patterns import Site, sites_of
from backbone.errors import InputError, nearest
from backbone.families import Family, find_family
from backbone.storage import Backbone
from backbone.trees import Params

WEIGHTS = "adapter_model.safetensors"
PREFIX = "base_model.model."

Tensors = dict[str, np.ndarray]


@dataclass(frozen=True)
class Layer:
    """A layer of the wrapped model, and the sites that it holds."""

    name: str  # full name in the wrapped model
    sites: tuple[Site, ...]  # several where one layer is query, key and value, in the order of its output units

    @property
    def inputs(self) -> int:
        """Returns the width of its input."""
        return self.sites[0].inputs

    @property
    def outputs(self) -> int:
        """Returns the number of its output units."""
        return sum(site.outputs for site in self.sites)

    def parts(self, array: np.ndarray) -> list[np.ndarray]:
        """Returns the part of each site of an array [O, ...]."""
        return np.split(array, np.cumsum([site.outputs for site in self.sites])[:-1])


def family_of(backbone: Backbone) -> Family:
    """Returns the family that names the backbone's layers.

    Raises InputError without a published family, and for blocks that share their layers: PEFT has one adapter a layer.
    """
    name, spec = backbone.source.get("family", ""), backbone.spec
    if spec.shares_weights:
        raise InputError(
            f"{backbone.path}: its {spec.blocks} blocks share {spec.groups} sets of layers, and PEFT has one adapter "
            f"for each layer, not for each block"
        )
    if (family := find_family(name)) is None:
        raise InputError(
            f"{backbone.path}: PEFT exchange needs a published family; this backbone's is {name or 'none'!r}"
        )
    return family


def layers_of(backbone: Backbone, kind: tuple[str, ...], prefix: str, spelling: int = 0) -> tuple[Layer, ...]:
    """Returns every layer that holds sites of a kind, in order; `spelling` 0 is the present name."""
    family = family_of(backbone)
    sites: dict[str, list[Site]] = {}
    for site in sites_of(backbone.spec, kind):
        names = family.site_layers(site.block, site.name)
        sites.setdefault(prefix + names[min(spelling, len(names) - 1)], []).append(site)
    return tuple(Layer(name, tuple(parts)) for name, parts in sites.items())


def task_prefix(backbone: Backbone) -> str:
    """Returns what the names of the encoder's layers begin with inside a model of a task."""
    return f"{family_of(backbone).task_prefix}."


def transposed(leaf: object) -> np.ndarray:
    """Returns a matrix in PyTorch's order of axes, float32."""
    return np.ascontiguousarray(np.asarray(leaf, np.float32).T)


def read_layers(
    source: Path,
    chosen: Chosen,
    left: Tensors,
    backbone: Backbone,
    kind: tuple[str, ...],
    names: Sequence[str],
    misfit: Callable[[Layer, Sequence[np.ndarray]], str],
) -> dict[Layer, list[np.ndarray]]:
    """Removes the tensors called `names` from `left` and returns them, for each layer that has the first of them.

    `misfit` returns the reason why tensors do not belong to a layer, or "". Raises InputError naming every tensor that
    belongs to no layer of the backbone, does not fit its layer or lacks its companion, and every layer that the config
    chooses without tensors, or does not choose although there are some.
    """
    suffix = f".{names[0]}"
    keys = [key for key in left if key.startswith(PREFIX) and key.endswith(suffix)]
    adapted = [key.removeprefix(PREFIX).removesuffix(suffix) for key in keys]
    known = _named_as(adapted, backbone, kind)
    tensors: dict[str, list[np.ndarray]] = {}
    problems = []
    for name in adapted:
        companions = [f"{PREFIX}{name}.{other}" for other in names]
        missing = [other for other in companions if other not in left]
        if name not in known:
            fault = f"no such layer in this backbone ({nearest(name, known)})"
            if name.rsplit(".", 2)[-2:] == ["pooler", "dense"]:
                fault = "the pooler is not adapted; train with exclude_modules=['pooler.dense']"
            problems.append(f"{companions[0]}: {fault}")
        elif missing:
            problems += [f"{other}: missing" for other in missing]
        else:
            tensors[name] = [left.pop(other) for other in companions]
            reason = misfit(known[name], tensors[name])
            problems += [f"{companions[0]}: {reason}"] if reason else []
    if problems or not tensors:
        shown = "\n  ".join(problems) or f"no tensor named ...{names[0]}"
        raise InputError(f"{source / WEIGHTS}: does not fit the backbone {backbone.path}:\n  {shown}")
    chosen.require(tensors, known)
    return {layer: tensors[name] for name, layer in known.items() if name in tensors}


def _named_as(adapted: Sequence[str], backbone: Backbone, kind: tuple[str, ...]) -> dict[str, Layer]:
    """Returns the layers of the wrapped model by name, spelled as most of `adapted` are."""
    ways = [
        {layer.name: layer for layer in layers_of(backbone, kind, prefix, spelling)}
        for prefix in (task_prefix(backbone), "")
        for spelling in (0, 1)
    ]
    return max(ways, key=lambda known: sum(name in known for name in adapted))


def nested(by_site: Mapping[Site, Params], order: Sequence[Site]) -> Params:
    """Returns leaves by block and site name, as a graft keeps them, in the given order of sites."""
    tree: Params = {}
    for site in order:
        if site in by_site:
            tree.setdefault(str(site.block), {})[site.name] = by_site[site]
    return tree
