"""The interface of a codec: the translation of one `peft_type` of PEFT."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from adapters.export.peft.layers import Layer, Tensors
from adapters.export.peft.names import Chosen
from adapters.methods.method import SiteMethod
from adapters.model import GraftModel
from backbone.storage import Backbone
from backbone.trees import Params

CONFIG = "adapter_config.json"

Fields = dict[str, Any]


@dataclass(frozen=True)
class Folder:
    """What a codec reads: the folder without its tensors."""

    path: Path
    config: Fields  # content of adapter_config.json
    chosen: Chosen  # the layers that the config chooses

    @property
    def file(self) -> str:
        """Returns the path of the config, for messages."""
        return str(self.path / CONFIG)


@dataclass(frozen=True)
class Adapter:
    """What a codec makes of a folder."""

    methods: tuple[SiteMethod, ...]
    leaves: Params  # leaves of each method by its tag, block and site
    notes: tuple[str, ...] = ()  # fields that were read otherwise than a reader may expect


class Codec(Protocol):
    """The translation of one `peft_type`."""

    title: str  # name in messages
    peft_type: str  # PEFT's name of the type
    methods: tuple[str, ...]  # tags of our methods that it holds
    kind: tuple[str, ...]  # sites at which they act
    # fields of PEFT's config that would change the computation in ways we lack, with the values that mean "not used"
    unused: Mapping[str, tuple[Any, ...]]
    used: frozenset[str]  # fields that it reads, or that change nothing once the adapter is trained
    default_targets: Mapping[str, Sequence[str]]  # PEFT's target_modules for families, where the config has none

    def write(
        self, model: GraftModel, leaves: Params, backbone: Backbone, layers: Sequence[Layer]
    ) -> tuple[Tensors, Fields]:
        """Returns PEFT's tensors by full name, and the fields of its config that are particular to the type.

        `leaves` are the leaves of the graft's one method by block and site; `layers` are the adapted ones. Raises
        InputError for what PEFT has no place for.
        """

    def read(self, folder: Folder, left: Tensors, backbone: Backbone) -> Adapter:
        """Returns the methods and their leaves; removes the tensors it uses from `left`.

        Raises InputError naming the field or tensor that does not fit.
        """
