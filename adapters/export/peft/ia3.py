"""PEFT's IA3: one vector a layer, [O, 1] where it scales outputs and [1, I] where it scales inputs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from adapters.export.peft.codec import PREFIX, Fields, Tensors, by_site, nested
from adapters.methods.ia3 import IA3
from adapters.model import GraftModel
from adapters.patterns import Site, covering
from backbone.sites import LINEAR
from backbone.storage import Backbone
from backbone.trees import Params

VECTOR = "ia3_l"

UNUSED: dict[str, tuple[Any, ...]] = {"fan_in_fan_out": (False, None)}


class IA3Codec:
    """See `adapters.export.peft.codec.Codec`."""

    title = "IA3"
    peft_type = "IA3"
    methods: tuple[str, ...] = (IA3.tag,)
    unused = UNUSED

    def write(
        self, model: GraftModel, leaves: Params, backbone: Backbone, module: Callable[[Site], str]
    ) -> tuple[Tensors, Fields]:
        tensors: Tensors = {}
        inputs = []
        for site, side in model.site_parts[IA3.tag][1].items():
            scale = np.asarray(leaves[str(site.block)][site.name]["scale"], np.float32)
            tensors[f"{PREFIX}{module(site)}.{VECTOR}"] = scale[None] if side == "input" else scale[:, None]
            if side == "input":
                inputs.append(module(site))
        return tensors, {"feedforward_modules": sorted(inputs), "fan_in_fan_out": False}

    def read(self, source: Path, config: Fields, left: Tensors, backbone: Backbone) -> tuple[IA3, Params]:
        vectors = {s: t[0] for s, t in by_site(source, left, backbone, LINEAR, (VECTOR,), _misfit).items()}
        inputs = [site for site, vector in vectors.items() if len(vector) == 1]
        outputs = [site for site in vectors if site not in inputs]
        names, blocks = covering(tuple(vectors), backbone.spec)
        by_name = names[0] in LINEAR and not {s.name for s in inputs} & {s.name for s in outputs}

        def patterns(sites: list[Site]) -> tuple[str, ...]:
            return tuple(dict.fromkeys(site.name if by_name else site.full_name for site in sites))

        method = IA3(patterns(outputs), patterns(inputs), blocks if by_name else "")
        return method, nested({site: {"scale": np.ascontiguousarray(v.reshape(-1))} for site, v in vectors.items()})


def _misfit(site: Site, tensors: Sequence[np.ndarray]) -> str:
    shape = tensors[0].shape
    if shape not in ((site.outputs, 1), (1, site.inputs)):
        return f"{shape} does not fit a layer {site.inputs} -> {site.outputs}"
    return ""
