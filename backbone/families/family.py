"""What a family has to say: a spec from its config, a source for each of our parameters."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol, runtime_checkable

import numpy as np

from backbone.errors import InputError
from backbone.spec import EncoderSpec


class Family(Protocol):
    """How one `model_type` of Hugging Face's layout maps to our network."""

    name: str
    task_prefix: str  # name of the encoder inside transformers' model of a task

    @property
    def task_pooling(self) -> Literal["", "first", "pooler"]:
        """With which that model's classifier is one dense layer on our features; "" = with none."""

    def spec(self, config: Mapping[str, Any], tensors: Collection[str]) -> EncoderSpec:
        """The architecture, given the (renamed) tensors of the file.

        Raises InputError naming a field that is missing or not supported.
        """

    def tensor_name(self, name: str) -> str:
        """The file's name without prefixes and old spellings."""

    def is_ignored(self, name: str) -> bool:
        """Whether a tensor is no part of the encoder (buffers, pretraining heads)."""

    def sources(self, path: str) -> tuple[str, ...]:
        """The tensors that fill our parameter `path`; none if it is zero in this family."""

    def site_module(self, block: int, site: str) -> str | None:
        """Their name of the dense layer at one of our linear sites; None if that layer holds several sites."""

    def convert(self, path: str, tensors: Sequence[np.ndarray]) -> np.ndarray:
        """Our array from theirs; PyTorch's kernels are [O, I], ours [I, O]."""


@runtime_checkable
class Exportable(Protocol):
    """What a family says in addition to be written in its published layout."""

    task_prefix: str  # of the encoder's tensors inside a model with a head

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


ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "relu": "relu",
    "silu": "silu",
}

_LEAVES = {"kernel": "weight", "bias": "bias", "scale": "weight"}


class Layout:
    """The part of a family that follows from its tables of names."""

    task_prefix: str
    task_pooling: Literal["", "first", "pooler"] = ""  # see Family
    renames: ClassVar[tuple[tuple[str, str], ...]] = ()  # (pattern, replacement): old spellings
    ignored: ClassVar[str]  # pattern of tensors that are no part of the encoder
    block: ClassVar[str]  # prefix of what is in a block, with {} for its number
    names: ClassVar[Mapping[str, str]]  # of our modules and of parameters outside modules
    qkv: ClassVar[tuple[str, ...]]  # their modules of query, key and value, or the one that holds all three

    def tensor_name(self, name: str) -> str:
        name = name.removeprefix(f"{self.task_prefix}.")
        for pattern, replacement in self.renames:
            name = re.sub(pattern, replacement, name)
        return name

    def is_ignored(self, name: str) -> bool:
        return re.match(self.ignored, name) is not None

    def sources(self, path: str) -> tuple[str, ...]:
        block = re.fullmatch(r"blocks\.(\d+)\.(.+)", path)
        prefix, rest = (self.block.format(block[1]), block[2]) if block else ("", path)
        if rest in self.names:
            return (prefix + self.names[rest],)
        module, leaf = rest.rsplit(".", 1)
        modules = self.qkv if module == "attention.qkv" else (self.names[module],)
        return tuple(f"{prefix}{theirs}.{_LEAVES[leaf]}" for theirs in modules)

    def site_module(self, block: int, site: str) -> str | None:
        prefix, part = self.block.format(block), site.rsplit("/", 1)[1]
        if part in ("query", "key", "value"):
            return prefix + self.qkv[("query", "key", "value").index(part)] if len(self.qkv) == 3 else None
        return prefix + self.names[site.replace("/", ".")]

    def convert(self, path: str, tensors: Sequence[np.ndarray]) -> np.ndarray:
        if path.endswith(".kernel"):
            return np.concatenate([np.ascontiguousarray(t.T) for t in tensors], axis=1)
        return np.concatenate(tensors) if len(tensors) > 1 else np.asarray(tensors[0])
