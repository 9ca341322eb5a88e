"""The base of families of published models: a spec for a config, a source for each of our parameters.

    class Roberta(BertLayout, tag="roberta"):       # backbone/families/roberta.py
        task_prefix = "roberta"

The tag is the `model_type` of the published config. Most families are tables of names. The methods below read those
tables, and a family overrides the methods whose answer its tables cannot give. Imports no jax.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np

from backbone.errors import InputError
from backbone.spec import EncoderSpec
from backbone.variants.registered import Registered, run_named_variants, variants

ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "relu": "relu",
    "silu": "silu",
    "relu2": "squared_relu",
}  # our name of each published one

_LEAVES = {"kernel": "weight", "bias": "bias", "scale": "weight"}  # PyTorch's name of each of our leaves

EXAMPLE_VOCABULARY = 40  # token ids of the example configs
EXAMPLE_SIZES = {
    "num_hidden_layers": 2,
    "hidden_size": 32,
    "num_attention_heads": 4,
    "intermediate_size": 48,
}  # sizes of the example configs, by the names that most families use


NEEDS = ("task_prefix", "ignored", "block", "names", "qkv", "spec")  # parts that every family defines


class Family(Registered, by="family", folder="backbone.families", needs=NEEDS, spelling=r"[\w.-]+"):
    """The mapping of one `model_type` of Hugging Face's layout to our network."""

    task_prefix: ClassVar[str]  # name of the backbone inside transformers' model of a task
    # pooling under which transformers' classifier is a single dense layer on our features; "": no pooling makes it so
    task_pooling: ClassVar[Literal["", "first", "pooler"]] = ""
    task_tagging: ClassVar[bool] = False  # transformers' tagger is a single dense layer on the finished states
    renames: ClassVar[tuple[tuple[str, str], ...]] = ()  # (pattern, replacement) of old spellings
    ignored: ClassVar[str]  # pattern of tensors that are no part of the backbone: buffers, heads of pretraining
    block: ClassVar[str]  # prefix of a block's tensors, with {} for its number
    names: ClassVar[Mapping[str, str]]  # published names of our modules, and of parameters outside modules
    qkv: ClassVar[tuple[str, ...]]  # published modules of query, key and value, or the one that holds all three
    tokenizer_class: ClassVar[str] = "TokenizersBackend"  # transformers' tokenizer where the files name none
    exportable: ClassVar[bool] = False  # `config` and `release_head` write the published layout

    @classmethod
    def example_config(cls) -> dict[str, Any]:
        """Returns the fields of a tiny `config.json`, on which the tests run the family."""
        raise NotImplementedError(f"{cls.__name__}: an example_config is missing; the tests run every family on one")

    def spec(self, config: Mapping[str, Any], tensors: Collection[str]) -> EncoderSpec:
        """Returns the architecture that a config describes, given the (renamed) tensors of the file.

        Raises InputError naming a field that is missing or not supported.
        """
        raise NotImplementedError

    def tensor_name(self, name: str) -> str:
        """Returns the file's name of a tensor without prefixes and old spellings."""
        name = name.removeprefix(f"{self.task_prefix}.")
        for pattern, replacement in self.renames:
            name = re.sub(pattern, replacement, name)
        return name

    def is_ignored(self, name: str) -> bool:
        """Returns whether a tensor is no part of the backbone."""
        return re.match(self.ignored, name) is not None

    def sources(self, path: str) -> tuple[str, ...]:
        """Returns the tensors that fill our parameter `path`; none if it is zero in this family."""
        block = re.fullmatch(r"blocks\.(\d+)\.(.+)", path)
        prefix, rest = (self.block.format(block[1]), block[2]) if block else ("", path)
        if rest in self.names:
            return (prefix + self.names[rest],)
        module, leaf = rest.rsplit(".", 1)
        modules = self.qkv if module == "attention.qkv" else (self.names[module],)
        return tuple(f"{prefix}{theirs}.{_LEAVES[leaf]}" for theirs in modules)

    def site_layers(self, block: int, site: str) -> tuple[str, ...]:
        """Returns the names of the layer at a linear or norm site in transformers' models, its present one first.

        Sites that one layer holds (a fused query, key and value) have the same names.
        """
        prefix, part = self.block.format(block), site.rsplit("/", 1)[1]
        if part in ("query", "key", "value"):
            return (prefix + self.qkv[("query", "key", "value").index(part) if len(self.qkv) == 3 else 0],)
        return (prefix + self.names[site.replace("/", ".")],)

    def convert(self, path: str, tensors: Sequence[np.ndarray]) -> np.ndarray:
        """Returns our array for `path` from its sources; PyTorch's kernels are [O, I], ours [I, O]."""
        if path.endswith(".kernel"):
            return np.concatenate([np.ascontiguousarray(t.T) for t in tensors], axis=1)
        return np.concatenate(tensors) if len(tensors) > 1 else np.asarray(tensors[0])

    def config(self, spec: EncoderSpec, *, masked: bool) -> dict[str, Any]:
        """Returns the config.json of a backbone, or with `masked` of one with a head of masked language modelling."""
        raise NotImplementedError

    def release(self, path: str, array: np.ndarray) -> dict[str, np.ndarray]:
        """Returns the published tensors of our parameter `path`: the reverse of `sources` and `convert`."""
        names = self.sources(path)
        parts = np.split(array, len(names), axis=-1)
        return dict(zip(names, (part.T for part in parts) if path.endswith(".kernel") else parts, strict=True))

    def release_head(self, head: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """Returns the published tensors of a head of masked language modelling (`backbone.network.masked_head`)."""
        raise NotImplementedError


def find_family(name: str) -> Family | None:
    """Returns the family of a `model_type`, or None if neither Topgraft nor `TOPGRAFT_VARIANTS` defines it."""
    if name not in variants(Family):
        run_named_variants()
    known = variants(Family)
    return known[name]() if name in known else None


@dataclass(frozen=True)
class Fields:
    """A config.json read strictly: every field is used, required to have a value, or harmless."""

    config: Mapping[str, Any]

    def integer(self, name: str, default: int | None = None) -> int:
        """Returns the whole number of a field. Raises InputError if it holds anything else."""
        value = self.config.get(name, default)
        if not isinstance(value, int) or isinstance(value, bool):
            raise InputError(f"config.json: {name}: expected an integer, got {value!r}")
        return value

    def number(self, name: str, default: float | None = None) -> float:
        """Returns the number of a field. Raises InputError if it holds anything else."""
        value = self.config.get(name, default)
        if not isinstance(value, (int, float)) or isinstance(value, bool):
            raise InputError(f"config.json: {name}: expected a number, got {value!r}")
        return float(value)

    def choice(self, name: str, choices: Mapping[str, Any], default: str) -> Any:
        """Returns what `choices` holds for the word in a field. Raises InputError for another word."""
        value = self.config.get(name, default)
        if not isinstance(value, str) or value not in choices:
            raise InputError(f"config.json: {name}: {value!r} is not supported; one of {', '.join(choices)}")
        return choices[value]

    def require(self, **values: Any) -> None:
        """Raises InputError for a field that is neither absent nor holds its value in `values`."""
        for name, expected in values.items():
            value = self.config.get(name, expected)
            if value != expected and not (value is None and not expected):
                raise InputError(f"config.json: {name}: {value!r} is not supported; only {expected!r} is")
