"""One optimiser step as a pure function of the live tree.

The loss takes (live, frozen, batch). Gradients, optimiser state and updates exist for live leaves and for no others.
`state` is {"live", "optimizer", "step", "sums"}; all of it stays on the device.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from adapters.model import GraftModel
from backbone.meshes.layout import ONE, Layout
from backbone.trees import Params, flatten, unflatten
from trainers.config import Optimizer
from trainers.data.batches import Batch
from trainers.runs.checkpoints import State

# (trained leaves, the adapter at the start, micro-batches done) -> term of the loss
PenaltyOf = Callable[[Params, Params, jax.Array], jax.Array]


def partition(params: Mapping[str, Any], is_live: Callable[[str], bool]) -> tuple[Params, Params]:
    """Splits a tree by dotted path into (live, frozen), which together hold every leaf once."""
    leaves = flatten(params)
    live = {path: leaf for path, leaf in leaves.items() if is_live(path)}
    frozen = {path: leaf for path, leaf in leaves.items() if path not in live}
    if not live:
        raise ValueError("nothing is live: no parameter would be trained")
    assert len(live) + len(frozen) == len(leaves)
    return unflatten(live), unflatten(frozen)


def join(live: Mapping[str, Any], frozen: Mapping[str, Any]) -> Params:
    """Returns the whole tree of a partition; raises ValueError if a leaf is in both."""
    above, below = flatten(live), flatten(frozen)
    both = above.keys() & below.keys()
    if both:
        raise ValueError(f"live and frozen share {', '.join(sorted(both)[:3])}")
    return unflatten(above | below)


def make_optimizer(
    config: Optimizer,
    steps: int,
    around: Callable[[optax.GradientTransformation], optax.GradientTransformation] = lambda inner: inner,
) -> optax.GradientTransformation:
    """Returns AdamW with clipping, warm-up, decay to zero over `steps` optimiser steps, and accumulation.

    `around` wraps what acts once an optimiser step.
    """
    warmup = round(config.warmup_fraction * steps)
    rest = max(1, steps - warmup)
    decay = {
        "linear": optax.linear_schedule(config.learning_rate, 0.0, rest),
        "cosine": optax.cosine_decay_schedule(config.learning_rate, rest),
        "constant": optax.constant_schedule(config.learning_rate),
    }[config.schedule]
    schedule = decay
    if warmup:
        schedule = optax.join_schedules([optax.linear_schedule(0.0, config.learning_rate, warmup), decay], [warmup])
    matrices = lambda tree: jax.tree.map(lambda leaf: leaf.ndim >= 2, tree)  # noqa: E731
    chain = [optax.clip_by_global_norm(config.clip_norm)] if config.clip_norm else []
    chain.append(optax.adamw(schedule, weight_decay=config.weight_decay, mask=matrices))
    optimizer = around(optax.chain(*chain))
    return optax.MultiSteps(optimizer, config.accumulate) if config.accumulate > 1 else optimizer


def first_state(
    live: Params, optimizer: optax.GradientTransformation, track: bool = False, keep_start: bool = False
) -> State:
    """Returns the state before the first step.

    With `track` it also holds the sum of gradients, "gradient"; with `keep_start` the adapter as it is now, "start".
    """
    state = {
        "live": live,
        "optimizer": optimizer.init(live),
        "step": jnp.zeros((), jnp.int32),
        "sums": no_sums(),
    }
    if track:
        state["gradient"] = jax.tree.map(jnp.zeros_like, live)
    if keep_start:
        state["start"] = {"adapter": jax.tree.map(jnp.array, live.get("adapter", {}))}
    return state


def carry(old: State, fresh: State) -> State:
    """Returns `fresh` with every leaf that `old` has at the same place: steps, sums, moments of live leaves."""
    known = {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(old)}
    return jax.tree_util.tree_map_with_path(lambda path, leaf: known.get(jax.tree_util.keystr(path), leaf), fresh)


def temporaries(program: Any) -> int:
    """Returns the bytes that the compiler plans for a compiled program, beside its arguments."""
    counted = program.memory_analysis()
    return int(counted.temp_size_in_bytes + counted.output_size_in_bytes - counted.alias_size_in_bytes)


def no_sums() -> dict[str, jax.Array]:
    """Returns zeros for the sum of losses, the rows, and the micro-batches skipped as not finite."""
    return {name: jnp.zeros((), jnp.float32) for name in ("loss", "rows", "skipped")}


def make_step(
    model: GraftModel,
    optimizer: optax.GradientTransformation,
    *,
    remat: bool,
    seed: int,
    track: bool = False,
    layout: Layout = ONE,
    penalty: PenaltyOf | None = None,
    parts: int = 1,
) -> Callable[[State, Params, Batch], State]:
    """Compiles (state, frozen, batch) -> state; the old state's memory is reused.

    `frozen` is {"backbone": ..., "graft": ...}. A batch may hold cached `states` instead of `ids`; each
    combination of boundary, bucket and live tree is one compiled program.
    """

    def loss_of(live: Params, frozen: Params, batch: Batch, rng: jax.Array) -> tuple[jax.Array, jax.Array]:
        params = join(live, frozen["graft"])
        inputs = {name: value for name, value in batch.items() if name in ("ids", "states", "mask")}
        logits = model.logits(frozen["backbone"], params, inputs, rng=rng, remat=remat)
        rows = batch["weights"].sum()
        divisor = rows if parts == 1 else jnp.maximum(rows, 1.0)  # a part of a batch may be all filling
        return (model.head.loss(logits, batch["labels"]) * batch["weights"]).sum() / divisor, rows

    return step_of(loss_of, optimizer, seed=seed, track=track, layout=layout, penalty=penalty, parts=parts)


def step_of(
    loss_of: Callable[[Params, Params, Any, jax.Array], tuple[jax.Array, jax.Array]],
    optimizer: optax.GradientTransformation,
    *,
    seed: int | None,
    track: bool = False,
    layout: Layout = ONE,
    penalty: PenaltyOf | None = None,
    parts: int = 1,
) -> Callable[[State, Params, Any], State]:
    """Compiles (state, frozen, batch) -> state for a loss (live, frozen, batch, rng) -> (mean loss, rows).

    The state stays where `layout` places it. The key is made from `seed` and the step; where the seed is None,
    `frozen["seed"]` uint32 holds it, so that one program serves several seeds. A micro-batch whose loss or gradient is
    not finite changes nothing but the count of skipped ones. `penalty` is added to the loss; it needs a state that
    keeps its start. With `parts` the batch runs in so many parts, whose losses and gradients are summed by rows.
    """

    def penalised(live: Params, frozen: Params, batch: Any, rng: jax.Array, state: State) -> tuple[Any, jax.Array]:
        loss, rows = loss_of(live, frozen, batch, rng)
        return (loss if penalty is None else loss + penalty(live, state["start"], state["step"])), rows

    of_batch = jax.value_and_grad(penalised, has_aux=True)

    def of_parts(state: State, frozen: Params, batch: Any, rng: jax.Array) -> tuple[Any, Params]:
        """Returns what `of_batch` returns, from the mean of the parts, weighted by their rows."""

        def add(total: Any, part: tuple[jax.Array, Any]) -> tuple[Any, None]:
            number, piece = part
            (loss, rows), gradient = of_batch(state["live"], frozen, piece, jax.random.fold_in(rng, number), state)
            return jax.tree.map(lambda t, new: t + rows * new, total, (loss, jnp.ones(()), gradient)), None

        pieces = jax.tree.map(lambda leaf: leaf.reshape(parts, -1, *leaf.shape[1:]), batch)
        nothing = jnp.zeros(()), jnp.zeros(()), jax.tree.map(jnp.zeros_like, state["live"])
        (loss, rows, gradient), _ = jax.lax.scan(add, nothing, (jnp.arange(parts), pieces))
        return (loss / rows, rows), jax.tree.map(lambda leaf: leaf / rows, gradient)

    def step(state: State, frozen: Params, batch: Any) -> State:
        rng = jax.random.fold_in(jax.random.key(frozen["seed"] if seed is None else seed), state["step"])
        (loss, rows), gradient = (
            of_parts(state, frozen, batch, rng) if parts > 1 else of_batch(state["live"], frozen, batch, rng, state)
        )
        updates, optimizer_state = optimizer.update(gradient, state["optimizer"], state["live"])
        finite = jnp.isfinite(loss) & jnp.isfinite(optax.tree.norm(gradient))
        kept = lambda new, old: jax.tree.map(lambda n, o: jnp.where(finite, n, o), new, old)  # noqa: E731
        gained = {
            "loss": jnp.where(finite, loss * rows, 0),
            "rows": jnp.where(finite, rows, 0),
            "skipped": 1.0 - finite,
        }
        following = {
            "live": kept(optax.apply_updates(state["live"], updates), state["live"]),
            "optimizer": kept(optimizer_state, state["optimizer"]),
            "step": state["step"] + 1,
            "sums": jax.tree.map(jnp.add, state["sums"], gained),
        }
        if track:
            following["gradient"] = kept(jax.tree.map(jnp.add, state["gradient"], gradient), state["gradient"])
        return layout.constrained(following | {name: state[name] for name in ("start",) if name in state})

    return jax.jit(step, donate_argnums=0)
