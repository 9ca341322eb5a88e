"""What a codec is, and what all of them share: PEFT's tensors sorted by our sites."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from adapters.model import GraftModel
from adapters.patterns import Site, sites_of
from adapters.specs import MethodSpec
from backbone.errors import InputError, nearest
from backbone.families import Family, find_family
from backbone.storage import Backbone
from backbone.trees import Params

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PREFIX = "base_model.model."

Tensors = dict[str, np.ndarray]
Fields = dict[str, Any]


class Codec(Protocol):
    """One `peft_type`."""

    title: str  # for messages
    peft_type: str
    spec_types: tuple[type[Any], ...]  # our methods that it holds
    unused: dict[str, tuple[Any, ...]]
    # fields of the config that change the computation in ways we do not have, with the values that mean "not used"

    def write(
        self, model: GraftModel, leaves: Params, backbone: Backbone, module: Callable[[Site], str]
    ) -> tuple[Tensors, Fields]:
        """PEFT's tensors by full name, and the fields of its config that are particular to the type.

        `leaves` are those of the graft's one method by block and site; `module` names a site as PEFT does.
        """

    def read(self, source: Path, config: Fields, left: Tensors, backbone: Backbone) -> tuple[MethodSpec, Params]:
        """Spec and leaves by block and site; takes what it uses out of `left`. Raises InputError."""


def family_of(backbone: Backbone) -> Family:
    """Who knows the names of the backbone's layers; raises InputError for a backbone without a published family."""
    name = backbone.source.get("family", "")
    if (family := find_family(name)) is None:
        raise InputError(
            f"{backbone.path}: PEFT exchange needs a published family; this backbone's is {name or 'none'!r}"
        )
    return family


def transposed(leaf: Any) -> np.ndarray:
    """PyTorch's order of axes."""
    return np.ascontiguousarray(np.asarray(leaf, np.float32).T)


def by_site(
    source: Path,
    left: Tensors,
    backbone: Backbone,
    kind: tuple[str, ...],
    names: Sequence[str],
    misfit: Callable[[Site, Sequence[np.ndarray]], str],
) -> dict[Site, list[np.ndarray]]:
    """The tensors called `names` of each site that has the first of them, taken out of `left`.

    `misfit` says why tensors do not belong to a site, or "". Raises InputError naming every tensor that
    belongs to no layer of the backbone, does not fit its layer or lacks its companion.
    """
    family = family_of(backbone)
    everywhere = sites_of(backbone.spec, kind)
    by_module = {module: site for site in everywhere if (module := family.site_module(site.block, site.name))}
    found: dict[Site, list[np.ndarray]] = {}
    problems = []
    for key in list(left):
        match = re.fullmatch(rf"{re.escape(PREFIX)}(?:{family.task_prefix}\.)?(.+)\.{re.escape(names[0])}", key)
        if not match:
            continue
        site = by_module.get(match[1])
        keys = [key.removesuffix(names[0]) + name for name in names]
        missing = [other for other in keys if other not in left]
        if site is None:
            problems.append(f"{key}: no such layer in this backbone ({nearest(match[1], by_module)})")
        elif missing:
            problems += [f"{other}: missing" for other in missing]
        elif reason := misfit(site, tensors := [left.pop(other) for other in keys]):
            problems.append(f"{key}: {reason}")
        else:
            found[site] = tensors
    if problems or not found:
        shown = "\n  ".join(problems) or f"no tensor named ...{names[0]}"
        raise InputError(f"{source / WEIGHTS}: does not fit the backbone {backbone.path}:\n  {shown}")
    return {site: found[site] for site in everywhere if site in found}


def nested(found: Mapping[Site, Params]) -> Params:
    """Leaves by block and site name, as a graft keeps them."""
    tree: Params = {}
    for site, leaves in found.items():
        tree.setdefault(str(site.block), {})[site.name] = leaves
    return tree
