"""The interface of a codec, and the part that all codecs share: PEFT's tensors sorted by our sites."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from adapters.methods.method import SiteMethod
from adapters.model import GraftModel
from adapters.patterns import Site, sites_of
from backbone.errors import InputError, nearest
from backbone.families import Family, find_family
from backbone.storage import Backbone
from backbone.trees import Params

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PREFIX = "base_model.model."

Tensors = dict[str, np.ndarray]
Fields = dict[str, Any]


class Codec(Protocol):
    """The translation of one `peft_type`."""

    title: str  # name in messages
    peft_type: str  # PEFT's name of the type
    methods: tuple[str, ...]  # tags of our methods that it holds
    # fields of PEFT's config that would change the computation in ways we lack, with the values that mean "not used"
    unused: dict[str, tuple[Any, ...]]

    def write(
        self, model: GraftModel, leaves: Params, backbone: Backbone, module: Callable[[Site], str]
    ) -> tuple[Tensors, Fields]:
        """Returns PEFT's tensors by full name, and the fields of its config that are particular to the type.

        `leaves` are the leaves of the graft's one method by block and site; `module` names a site as PEFT does.
        """

    def read(self, source: Path, config: Fields, left: Tensors, backbone: Backbone) -> tuple[SiteMethod, Params]:
        """Returns the method, and its leaves by block and site; removes the tensors it uses from `left`.

        Raises InputError naming the field or tensor that does not fit.
        """


def family_of(backbone: Backbone) -> Family:
    """Returns the family that names the backbone's layers; raises InputError without a published family."""
    name = backbone.source.get("family", "")
    if (family := find_family(name)) is None:
        raise InputError(
            f"{backbone.path}: PEFT exchange needs a published family; this backbone's is {name or 'none'!r}"
        )
    return family


def transposed(leaf: Any) -> np.ndarray:
    """Returns a matrix in PyTorch's order of axes, float32."""
    return np.ascontiguousarray(np.asarray(leaf, np.float32).T)


def by_site(
    source: Path,
    left: Tensors,
    backbone: Backbone,
    kind: tuple[str, ...],
    names: Sequence[str],
    misfit: Callable[[Site, Sequence[np.ndarray]], str],
) -> dict[Site, list[np.ndarray]]:
    """Removes the tensors called `names` from `left` and returns them, for each site that has the first of them.

    `misfit` returns the reason why tensors do not belong to a site, or "". Raises InputError naming every tensor that
    belongs to no layer of the backbone, does not fit its layer or lacks its companion.
    """
    family = family_of(backbone)
    everywhere = sites_of(backbone.spec, kind)
    by_module = {module: site for site in everywhere if (module := family.site_module(site.block, site.name))}
    sorted_out: dict[Site, list[np.ndarray]] = {}
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
            sorted_out[site] = tensors
    if problems or not sorted_out:
        shown = "\n  ".join(problems) or f"no tensor named ...{names[0]}"
        raise InputError(f"{source / WEIGHTS}: does not fit the backbone {backbone.path}:\n  {shown}")
    return {site: sorted_out[site] for site in everywhere if site in sorted_out}


def nested(by_place: Mapping[Site, Params]) -> Params:
    """Returns leaves by block and site name, as a graft keeps them."""
    tree: Params = {}
    for site, leaves in by_place.items():
        tree.setdefault(str(site.block), {})[site.name] = leaves
    return tree
