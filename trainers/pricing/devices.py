"""The devices of a run, and the bytes of its parameters on each, before anything runs. No device is needed for it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import jax

from backbone.meshes.mesh import Mesh
from backbone.meshes.rules import axes_of, bytes_per_device, check_rules, laid_out

MOMENTS = 2  # moments of AdamW for each trained scalar


@dataclass(frozen=True)
class Devices:
    """The devices of a run, with what lies on each; activations are known when the step is compiled, not before."""

    devices: int
    axes: dict[str, int]  # size of each axis of the mesh
    rows_per_device: int  # rows of a micro-batch
    weight_bytes: int  # bytes of the float32 weights on a device
    trained_bytes: int  # bytes of gradients and moments on a device
    cut: dict[str, str]  # axis of each dimension of the parameters that do not lie whole on a device, by name


def devices_of(
    mesh: Mesh, batch_size: int, weights: Mapping[str, tuple[int, ...]], trained: Mapping[str, tuple[int, ...]]
) -> Devices:
    """Returns the devices of a run by the shapes of all its parameters, and of those that it trains.

    Raises InputError for a batch that cannot be divided, a rule that matches nothing, or a parameter without a rule.
    """
    if mesh.data == "auto":
        mesh = mesh.resolved(jax.device_count())
    mesh.check_batch(batch_size)
    check_rules(mesh, weights)
    axes = {name: axes_of(mesh, name, shape) for name, shape in weights.items()}
    return Devices(
        devices=mesh.size,
        axes=mesh.sizes,
        rows_per_device=batch_size // mesh.shards,
        weight_bytes=bytes_per_device(laid_out(mesh, weights).values()),
        trained_bytes=(1 + MOMENTS) * bytes_per_device(laid_out(mesh, trained).values()),
        cut={name: ", ".join(axis or "whole" for axis in laid) for name, laid in axes.items() if any(laid)},
    )
