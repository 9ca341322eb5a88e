"""The programs that an audit compiles and times: what Topgraft computes most, on weights that are made up.

Two blocks of MiniLM's width stand for a backbone: forward passes in every fast precision, one row as a request brings
it, and a step of LoRA. Shape letters: `B` rows, `T` tokens.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from adapters import costs
from adapters.forward import forward_program
from adapters.model import GraftModel
from adapters.specs import Classification, Lora
from backbone.network.encoder import Network
from backbone.precisions.precision import FLOAT32, Precision, precision_named
from backbone.spec import EncoderSpec
from backbone.trees import map_leaves
from backbone.variants.registered import variants
from metering.counts import Count
from metering.libraries import products_of
from metering.roofline import measure
from metering.speeds import Peak, ProgramSpeed, Work, speed_of

PASSES = 3  # passes of a round, of which the fastest counts
LABELS = ("a", "b", "c", "d")


@dataclass(frozen=True)
class Sizes:
    """The sizes of the programs."""

    blocks: int = 2
    width: int = 384
    heads: int = 12
    mlp_width: int = 1536
    rows: int = 32
    tokens: int = 32
    vocabulary: int = 4096


@dataclass(frozen=True)
class Compiled:
    """A compiled program with its inputs and its counted work."""

    work: Work
    run: Callable[[], Any]  # returns arrays that may not be ready yet


def compiled_programs(sizes: Sizes) -> tuple[Compiled, ...]:
    """Compiles every program; a few seconds each the first time on a machine."""
    return tuple(_programs(sizes))


def _programs(sizes: Sizes) -> Iterator[Compiled]:
    spec = EncoderSpec(
        sizes.blocks, sizes.width, sizes.heads, sizes.mlp_width, sizes.vocabulary, positions=max(sizes.tokens, 16)
    )
    model = GraftModel(Network(spec), (Lora(rank=8),), Classification(), LABELS)
    plain = map_leaves(np.asarray, model.network.init(0))
    graft = model.init(jax.random.key(0))
    for tag, cls in variants(Precision).items():
        if cls.faster:
            trunk = precision_named(tag).prepare(plain)
            shapes = ((sizes.rows, sizes.tokens), (1, 16)) if tag == FLOAT32 else ((sizes.rows, sizes.tokens),)
            for rows, tokens in shapes:
                name = f"forward pass, {tag}, {rows} x {tokens}"
                count, batch = costs.forward(model, rows, tokens), _batch(spec, rows, tokens)
                yield _compiled(name, cls.factors, count, forward_program(model), (trunk, graft, *batch))
    yield _step(model, plain, graft, sizes)


def _batch(spec: EncoderSpec, rows: int, tokens: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns ids int32 [B,T] and a full mask bool [B,T]."""
    ids = np.random.default_rng(0).integers(0, spec.vocabulary, (rows, tokens)).astype(np.int32)
    return ids, np.ones((rows, tokens), bool)


def _step(model: GraftModel, trunk: Any, graft: Any, sizes: Sizes) -> Compiled:
    """Returns the loss and the gradient of a graft, for one batch."""
    ids, mask = _batch(model.network.spec, sizes.rows, sizes.tokens)
    labels = np.arange(sizes.rows) % len(LABELS)

    def loss(live: Any, frozen: Any, ids: jax.Array, mask: jax.Array) -> jax.Array:
        scores = jax.nn.log_softmax(model.logits(frozen, live, {"ids": ids, "mask": mask}))
        return -jnp.take_along_axis(scores, labels[:, None], axis=1).mean()

    count = costs.train_step(model, sizes.rows, sizes.tokens, boundary=0, cached=False)
    name = f"step of LoRA, {FLOAT32}, {sizes.rows} x {sizes.tokens}"
    return _compiled(name, FLOAT32, count, jax.jit(jax.value_and_grad(loss)), (graft, trunk, ids, mask))


def _compiled(name: str, factors: str, count: Count, program: Any, arguments: tuple[Any, ...]) -> Compiled:
    placed = jax.device_put(arguments)
    compiled = program.lower(*placed).compile()
    products = products_of(compiled.as_text(), jax.default_backend())
    return Compiled(Work(name, factors, count.flops, count.bytes, products), lambda: compiled(*placed))


def measured_peaks(programs: Sequence[Compiled]) -> dict[str, Peak]:
    """Measures the ceilings of the dtypes that the programs multiply."""
    ceilings = {factors: measure(factors) for factors in dict.fromkeys(one.work.factors for one in programs)}
    bandwidth = max(one.bandwidth for one in ceilings.values()) / 1e9  # of the memory, whatever the dtype
    return {factors: Peak(factors, one.flops / 1e9, bandwidth) for factors, one in ceilings.items()}


def measured_speeds(programs: Sequence[Compiled], peaks: dict[str, Peak], rounds: int) -> tuple[ProgramSpeed, ...]:
    """Measures the programs in turn, `rounds` times after one that warms up."""
    seconds: dict[str, list[float]] = {program.work.program: [] for program in programs}
    for number in range(rounds + 1):
        for program in programs:
            fastest = min(_seconds(program.run) for _ in range(PASSES))
            if number:
                seconds[program.work.program].append(fastest)
    return tuple(speed_of(program.work, seconds[program.work.program], peaks) for program in programs)


def _seconds(run: Callable[[], Any]) -> float:
    start = time.perf_counter()
    jax.block_until_ready(run())  # type: ignore[no-untyped-call]
    return time.perf_counter() - start
