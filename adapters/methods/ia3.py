"""IA3: learned scales of activations (Liu et al. 2022, arXiv 2205.05638, section 3.3), one at the start.

At `scale_outputs` the product's output is scaled, bias included (keys, values). At `scale_inputs` the
product's input is scaled (the mlp's hidden units before the second dense layer).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, Self, TypeAlias

from adapters.methods.method import Array, Call, Kernel, SiteMethod, select
from adapters.methods.settings import require_blocks
from adapters.patterns import Site, match, matched_sites
from backbone.errors import InputError
from backbone.lazy import jnp
from backbone.spec import EncoderSpec
from backbone.trees import Params

Side: TypeAlias = Literal["input", "output"]


@dataclass(frozen=True)
class IA3(SiteMethod, tag="ia3"):
    """Learned scales of activations: outputs of `scale_outputs`, inputs of `scale_inputs`.

    Source: Liu et al. 2022 (arXiv 2205.05638), section 3.3. Scales start at one.
    """

    free_in_bank: ClassVar[tuple[str, ...]] = ("scale_outputs", "scale_inputs", "blocks")

    scale_outputs: tuple[str, ...] = ("attention/key", "attention/value")  # patterns over linear sites
    scale_inputs: tuple[str, ...] = ("mlp/down",)  # patterns over linear sites
    blocks: str = ""  # range of blocks, slice notation

    def __post_init__(self) -> None:
        require_blocks(self.blocks)
        if not (self.scale_outputs or self.scale_inputs):
            raise InputError("scale_outputs: at least one pattern is needed here or in scale_inputs")

    def groups(self, encoder: EncoderSpec) -> dict[str, tuple[Site, ...]]:
        everywhere = self.candidates(encoder)
        return match(self.scale_outputs, everywhere, "scale_outputs") | match(
            self.scale_inputs, everywhere, "scale_inputs"
        )

    def settings(self, encoder: EncoderSpec) -> dict[Site, Side]:
        everywhere = self.candidates(encoder)
        outputs = matched_sites(self.scale_outputs, everywhere, "scale_outputs")
        inputs = matched_sites(self.scale_inputs, everywhere, "scale_inputs")
        both = sorted({site.name for site in set(outputs) & set(inputs)})
        if both:
            raise InputError(f"scale_inputs: {', '.join(both)} is in scale_outputs too; a site is scaled once")
        sides: dict[Site, Side] = dict.fromkeys(outputs, "output")
        sides.update(dict.fromkeys(inputs, "input"))
        return sides

    def init(self, site: Site, setting: Side, rng: Array) -> Params:
        return {"scale": jnp.ones((site.outputs if setting == "output" else site.inputs,))}

    def changes_input(self, site_name: str, setting: Side) -> bool:
        return setting == "input"

    def before(self, setting: Side, leaves: Params, x: Array, call: Call) -> Array:
        return x * select(leaves["scale"], call.slots).astype(x.dtype) if setting == "input" else x

    def after(self, setting: Side, leaves: Params, x: Array, y: Array, kernel: Kernel, call: Call) -> Array:
        return y * select(leaves["scale"], call.slots).astype(y.dtype) if setting == "output" else y

    def merge(self, setting: Side, leaves: Params, kernel: Array, bias: Array) -> tuple[Array, Array]:
        scale = leaves["scale"]
        return (kernel * scale, bias * scale) if setting == "output" else (kernel * scale[:, None], bias)

    @classmethod
    def example(cls) -> Self:
        return cls()
