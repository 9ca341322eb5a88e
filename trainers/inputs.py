"""What train and plan prepare alike: the model of a config."""

from __future__ import annotations

from adapters.model import GraftModel
from adapters.specs import Ladder, Probe, above
from backbone.errors import InputError
from backbone.storage import Backbone
from trainers.config import TrainConfig


def graft_model(config: TrainConfig, backbone: Backbone, labels: tuple[str, ...]) -> GraftModel:
    """The model of a config. Blocks that are frozen from the first step on get no adapter."""
    methods = config.methods
    name, value = config.plan.schedule
    if name == "top" and not isinstance(config.adapter, (Probe, Ladder)):
        if any(getattr(spec, "blocks", "") for spec in methods):
            raise InputError(
                f"adapter.blocks: plan.stages={config.plan.stages} decides the blocks; leave one of them out"
            )
        first = max(0, backbone.spec.blocks - int(value))
        methods = tuple(above(spec, first, backbone.spec.blocks) for spec in methods)
    return GraftModel(backbone.network, methods, config.head, labels)
