"""The base of training objectives of a backbone: a loss over batches of rows, and the head that it needs.

An objective is one file: a frozen dataclass whose fields are its settings, and these methods. Most derive from
`TextObjective` (objectives/text.py) or `ImageObjective` (objectives/images.py), which read the rows.

    @dataclass(frozen=True)
    class MaskedTokens(TextObjective, tag="masked_tokens"):
        fraction: float = 0.15
        def init_head(self, material, rng): ...
        def loss(self, material, params, batch, rng, *, dtype, remat): ...
        def head_cost(self, material, rows): ...

Importing it imports no jax: use `backbone.lazy`, and import what needs jax inside the methods.
Shapes: B rows, T tokens, D width.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from backbone.lazy import jnp
from backbone.variants.registered import Registered
from metering.counts import Count

if TYPE_CHECKING:
    from jax import Array

    from backbone.network.encoder import Network
    from backbone.storage import Backbone, Preprocessing
    from backbone.trees import Params
    from trainers.pretraining.config import BackboneConfig
    from trainers.pretraining.material import Batch, Material


NEEDS = ("reads", "check", "read", "init_head", "loss", "head_cost")  # parts that every objective defines


class Objective(Registered, by="kind", folder="trainers.pretraining.objectives", needs=NEEDS):
    """A loss over batches of rows, with the head that it needs beside the backbone.

    `params` is {"backbone", "head"} everywhere. Each method is a pure function of its arguments.
    """

    reads: ClassVar[Literal["text", "images"]]  # also what its network, or its start, must read
    streams: ClassVar[bool] = False  # reads its rows from disk where the config says so
    scores: ClassVar[tuple[str, ...]] = ("loss",)  # names of the held-out scores; "loss" is always one

    @property
    def brings_network(self) -> bool:
        """Returns whether the objective makes the network itself; a config then needs neither `network` nor `start`."""
        return False

    @classmethod
    def example(cls) -> Self:
        """Returns settings on which the test suite of all objectives runs; the default ones."""
        return cls()

    def check(self, config: BackboneConfig) -> None:
        """Raises InputError for a field that does not go with this objective, or one that it misses."""
        raise NotImplementedError

    def read(self, config: BackboneConfig, workdir: Path, start: Backbone | None, *, show: bool = False) -> Material:
        """Reads the rows of a run, and makes its network or takes that of `start`.

        `show` draws progress. Raises InputError for bad files, or fewer rows than one batch.
        """
        raise NotImplementedError

    def init_head(self, material: Material, rng: Array) -> Params:
        """Returns a fresh head, float32; {} if the objective needs none."""
        raise NotImplementedError

    def loss(
        self,
        material: Material,
        params: Params,
        batch: Batch,
        rng: Array,
        *,
        dtype: Any = "float32",
        remat: bool = False,
    ) -> tuple[Array, Array]:
        """Computes the mean loss and the number of predictions; `rng` decides whatever is drawn.

        `dtype` is that of activations and products; `remat` recomputes each block in the backward pass.
        """
        raise NotImplementedError

    def score(
        self, material: Material, params: Params, batch: Batch, rng: Array, *, dtype: Any = "float32"
    ) -> tuple[dict[str, Array], Array]:
        """Computes the means of `scores` by name and the number of predictions, on held-out rows."""
        loss, predictions = self.loss(material, params, batch, rng, dtype=dtype)
        return {"loss": loss}, predictions

    def head_cost(self, material: Material, rows: int) -> Count:
        """Returns the work of the head's forward pass on `rows` rows."""
        raise NotImplementedError

    def is_used(self, path: str) -> bool:
        """Returns whether the backbone's parameter at a dotted path has a gradient; one without stays as it is."""
        return not path.startswith("pooler.")

    def context_free_loss(self, material: Material) -> float | None:
        """Returns the loss, in nats, of the best guess that sees no context; None where nobody computes it."""
        return None


def network_of(config: BackboneConfig, start: Backbone | None, preprocessing: Preprocessing) -> tuple[Network, str]:
    """Returns the network of `start`, or a new one for the rows of `preprocessing`, and its published layout."""
    from backbone.network.encoder import Network

    if start is not None:
        return start.network, start.source.get("family", "")
    assert config.network is not None, "BackboneConfig refuses it without a start"
    return Network(config.network.spec(preprocessing)), config.network.family()


def finished_states(
    network: Network, backbone: Params, ids: Array, *, dtype: Any = "float32", remat: bool = False
) -> Array:
    """Computes the finished states [B,T,D] of rows without padding: ids [B,T], or patches [B,T,P]."""
    hidden = network.embed(backbone, {"ids": ids}, dtype)
    everywhere = jnp.ones(ids.shape[:2], jnp.bool_)
    return network.finish(backbone, network.run_blocks(backbone, hidden, everywhere, remat=remat))


def weighted_mean(values: Array, weights: Array) -> tuple[Array, Array]:
    """Computes the mean of `values` with `weights`, and the sum of the weights."""
    total = weights.sum()
    return (values * weights).sum() / jnp.maximum(total, 1), total
