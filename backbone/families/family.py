"""What a family has to say: a spec from its config, a source for each of our parameters."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np

from backbone.errors import InputError
from backbone.spec import EncoderSpec


class Family(Protocol):
    """How one `model_type` of Hugging Face's layout maps to our network."""

    name: str

    def spec(self, config: Mapping[str, Any], tensors: Collection[str]) -> EncoderSpec:
        """The architecture, given the (renamed) tensors of the file.

        Raises InputError naming a field that is missing or not supported.
        """

    def tensor_name(self, name: str) -> str:
        """The file's name without prefixes and old spellings."""

    def is_ignored(self, name: str) -> bool:
        """Whether a tensor is no part of the encoder (buffers, pretraining heads)."""

    def sources(self, path: str) -> tuple[str, ...]:
        """The tensors that fill our parameter `path`."""

    def site_module(self, block: int, site: str) -> str:
        """Their name of the dense layer at one of our linear sites."""

    def convert(self, path: str, tensors: Sequence[np.ndarray]) -> np.ndarray:
        """Our array from theirs; PyTorch's kernels are [O, I], ours [I, O]."""


@runtime_checkable
class Exportable(Protocol):
    """What a family says in addition to be written in its published layout."""

    prefix: str  # of the encoder's tensors inside a model with a head

    def config(self, spec: EncoderSpec, *, masked: bool) -> dict[str, Any]:
        """The config.json of an encoder, or with `masked` of one with a head of masked language modelling."""

    def release(self, path: str, array: np.ndarray) -> dict[str, np.ndarray]:
        """Their tensors from our parameter: the reverse of `sources` and `convert`."""

    def release_head(self, head: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """Their tensors of the head of masked language modelling."""


@dataclass(frozen=True)
class Fields:
    """A config.json read strictly: every field is used, required to have a value, or harmless."""

    config: Mapping[str, Any]

    def integer(self, name: str, default: int | None = None) -> int:
        value = self.config.get(name, default)
        if not isinstance(value, int) or isinstance(value, bool):
            raise InputError(f"config.json: {name}: expected an integer, got {value!r}")
        return value

    def number(self, name: str, default: float | None = None) -> float:
        value = self.config.get(name, default)
        if not isinstance(value, (int, float)) or isinstance(value, bool):
            raise InputError(f"config.json: {name}: expected a number, got {value!r}")
        return float(value)

    def choice(self, name: str, choices: Mapping[str, Any], default: str) -> Any:
        value = self.config.get(name, default)
        if value not in choices:
            raise InputError(f"config.json: {name}: {value!r} is not supported; one of {', '.join(choices)}")
        return choices[value]

    def require(self, **values: Any) -> None:
        """Fields that must be absent or hold this value."""
        for name, wanted in values.items():
            found = self.config.get(name, wanted)
            if found != wanted and not (found is None and not wanted):
                raise InputError(f"config.json: {name}: {found!r} is not supported; only {wanted!r} is")


def rename(name: str, rules: Sequence[tuple[str, str]]) -> str:
    """The name after every (pattern, replacement) in turn."""
    for pattern, replacement in rules:
        name = re.sub(pattern, replacement, name)
    return name
