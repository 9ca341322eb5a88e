"""A parent: a LoRA graft whose adapter becomes part of a trunk, on which the grafts of several tasks are trained.

The result is a trunk of its own (`backbone.storage.save_derived`): the frozen trunk plus the graft's updates, stored as
these alone. Whatever takes a trunk takes it: caches, precisions, banks, the registry. The graft's head is left out.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from adapters.graft import dropped, load_graft
from adapters.machine import ready_to_compute
from adapters.merging import place_of
from adapters.mixing import factors_of
from backbone.errors import InputError
from backbone.home import resolve_backbone
from backbone.network.updates import Update
from backbone.precisions.precision import FLOAT32
from backbone.storage import load_backbone, save_derived


@dataclass(frozen=True)
class ParentTrunk:
    """The result of `parent`; `--json` prints it."""

    path: str  # folder of the new trunk
    weights_id: str  # identity of the new trunk
    base: str  # weights_id of the trunk below it, float32
    graft: str  # content_id of the graft whose adapter it holds
    sites: int  # kernels that it changes, query, key and value counted apart
    parameters: int  # scalars that it adds
    bytes: int  # size of its folder


def parent(graft: str | Path, out: str | Path, *, backbone: str | None = None) -> ParentTrunk:
    """Writes the trunk of a LoRA graft with the graft's updates in it, as the new folder `out`.

    Raises InputError for a graft of another method, for blocks that share weights, and for kernels of low rank.
    """
    ready_to_compute()
    loaded = load_graft(graft, None if backbone is None else resolve_backbone(backbone))
    trunk, manifest = loaded.backbone, loaded.manifest
    assert manifest is not None
    if loaded.model.suffix:
        raise InputError(f"{graft}: it is pruned, and its blocks are no part of a trunk; name the unpruned graft")
    factors = factors_of(graft, loaded)
    if trunk.spec.shares_weights:
        raise InputError(f"{graft}: the blocks of its trunk share weights: an update of one would change others")
    if trunk.precision != FLOAT32:
        trunk = load_backbone(trunk.path, precision=FLOAT32)
    dropped([loaded], "a parent")
    updates = []
    for site, (a, b) in factors.items():
        layer, first = place_of(site)
        updates.append(Update(layer, first, a.astype("float32"), b.astype("float32")))
    source = {**trunk.source, "source": "parent", "graft": manifest.content_id}
    folder = Path(out)
    record = save_derived(folder, trunk, updates, source)
    return ParentTrunk(
        path=str(out),
        weights_id=record.weights_id,
        base=record.base,
        graft=manifest.content_id,
        sites=len(updates),
        parameters=sum(update.left.size + update.right.size for update in updates),
        bytes=sum(file.stat().st_size for file in folder.iterdir()),
    )
