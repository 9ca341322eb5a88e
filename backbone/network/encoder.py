"""The network, once: `flax.nnx` modules for its parts, pure functions over plain dicts for its use.

    network = Network(spec)
    hidden = network.embed(params, {"ids": ids})                     # [B,T,D], boundary 0
    hidden = network.run_blocks(params, hidden, mask, hooks, start=0, stop=L)
    output = network.finish(params, hidden)                          # [B,T,D]

Weights are nested dicts with string keys; a module is merged with them inside the trace. `start`, `stop` and `taps` cut
the stack anywhere: boundary k is the input of block k. Only the parameters that a call touches must be present, so a
suffix can run without its prefix's weights.

Blocks of one group share their weights, which lie once in `blocks`, under the number of the group.

Shapes: B rows, T tokens, D width, E width of the embeddings, K width of the keys, M hidden units of the mlp, P values
of a patch, L blocks.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from backbone.network.activations import activation
from backbone.network.attention import attention, received, rotate
from backbone.network.reductions import last_mean
from backbone.network.sites import (
    ATTENTION_NORM,
    ATTENTION_OUTPUT,
    KEY,
    MLP_DOWN,
    MLP_NORM,
    MLP_UP,
    PLAIN_HOOKS,
    QUERY,
    VALUE,
    BlockHooks,
    Hooks,
)
from backbone.network.stored import FrozenKernel, LowRankKernel, has_exact_rows, rounds_states
from backbone.spec import BlockKind, EncoderSpec, ImageSpec
from backbone.trees import Params, map_leaves

Array = jax.Array

INIT_STD = 0.02  # standard deviation of fresh kernels and embeddings (Devlin et al. 2018)


def _normal(rngs: nnx.Rngs, shape: tuple[int, ...], deviation: float = INIT_STD) -> nnx.Param[Array]:
    return nnx.Param(deviation * jax.random.truncated_normal(rngs.params(), -2, 2, shape))


def _deviation(rank: int) -> float:
    """Returns the deviation of two factors of which the product has that of a fresh kernel."""
    return math.sqrt(INIT_STD / math.sqrt(rank))


class Dense(nnx.Module):
    """A kernel [I, O] and a bias [O]; the product belongs to the site, not to this module.

    With `rank` R the kernel is a product [I, R] [R, O].
    """

    def __init__(self, inputs: int, outputs: int, *, rank: int = 0, rngs: nnx.Rngs):
        if rank:
            self.low = Factor(inputs, rank, rngs=rngs)
        self.kernel = _normal(
            rngs, (rank or inputs, outputs), math.sqrt(INIT_STD / math.sqrt(rank)) if rank else INIT_STD
        )
        self.bias = nnx.Param(jnp.zeros((outputs,)))

    @property
    def product(self) -> FrozenKernel:
        """Returns the kernel that a site multiplies with."""
        whole = self.kernel[...]
        return LowRankKernel(self.low.kernel[...], whole) if hasattr(self, "low") else whole


class Factor(nnx.Module):
    """The first factor [I, R] of a kernel of low rank."""

    def __init__(self, inputs: int, rank: int, *, rngs: nnx.Rngs):
        self.kernel = _normal(rngs, (inputs, rank), _deviation(rank))


class Norm(nnx.Module):
    """A norm of the last axis in float32, with scale and bias.

    `layer` subtracts the mean and divides by the deviation (Ba et al. 2016). `rms` divides by the root of the mean
    square (Zhang and Sennrich 2019, arXiv 1910.07467, equation 4).
    """

    def __init__(self, spec: EncoderSpec, width: int = 0):
        width = width or spec.width
        self.scale = nnx.Param(jnp.ones((width,)))
        self.bias = nnx.Param(jnp.zeros((width,)))
        self.epsilon, self.centres = spec.norm_epsilon, spec.norm_function == "layer"

    def __call__(self, x: Array, hooks: BlockHooks = PLAIN_HOOKS, name: str = "", *, exact_rows: bool = False) -> Array:
        scale, bias = hooks.norm(name, self.scale[...], self.bias[...])
        wide = x.astype(jnp.float32)
        centred = wide - last_mean(wide, exact_rows=exact_rows) if self.centres else wide
        variance = last_mean(jnp.square(centred), exact_rows=exact_rows)
        y = centred * jax.lax.rsqrt(variance + self.epsilon)
        return (y * scale.astype(jnp.float32) + bias.astype(jnp.float32)).astype(x.dtype)


class Embeddings(nnx.Module):
    """The sum of token (or patch), position and segment embeddings, then a norm; each only where the spec has it.

    Embeddings narrower than the blocks are projected to their width after the norm (ALBERT: Lan et al. 2019, arXiv
    1909.11942, section 3.1).
    """

    def __init__(self, spec: EncoderSpec, *, rngs: nnx.Rngs):
        self.offset, width = spec.position_offset, spec.embedding_width or spec.width
        if spec.image:
            self.image = spec.image
            self.patch = Dense(spec.image.patch_width, width, rngs=rngs)
            self.special = _normal(rngs, (spec.image.special, width))
        else:
            self.token = _normal(rngs, (spec.vocabulary, width))
        if spec.blocks and not spec.rotary_theta:
            self.position = _normal(rngs, (spec.positions + spec.position_offset, width))
        if spec.segments:
            self.segment = _normal(rngs, (spec.segments, width))
        if spec.embedding_norm:
            self.norm = Norm(spec, width)
        if spec.embedding_width:
            self.projection = Dense(width, spec.width, rngs=rngs)

    def __call__(self, ids: Array, segments: Array | None, dtype: jnp.dtype) -> Array:
        hidden = self._patches(ids, dtype) if hasattr(self, "patch") else self.token[...][ids].astype(dtype)
        if hasattr(self, "position"):
            hidden += self.position[...][self.offset : self.offset + ids.shape[1]].astype(dtype)
        if hasattr(self, "segment"):
            table = self.segment[...].astype(dtype)
            hidden += table[0] if segments is None else table[segments]
        elif segments is not None:
            raise ValueError("this backbone has no segment embeddings, but segments were given")
        if hasattr(self, "norm"):
            exact = hasattr(self, "token") and has_exact_rows(self.token[...])
            hidden = self.norm(hidden, exact_rows=exact)
        if hasattr(self, "projection"):
            hidden = PLAIN_HOOKS.linear("projection", hidden, self.projection.product, self.projection.bias[...])
        return hidden

    def _patches(self, patches: Array, dtype: jnp.dtype) -> Array:
        """Embeds pixels uint8 [B,T,P] as [B,T,D]; values at the places of the special tokens are not read."""
        special = self.special[...].astype(dtype)
        values = normalised(patches[:, len(special) :], self.image).astype(dtype)
        hidden = PLAIN_HOOKS.linear("patch", values, self.patch.kernel[...], self.patch.bias[...])
        return jnp.concatenate([jnp.broadcast_to(special, (hidden.shape[0], *special.shape)), hidden], axis=1)


def normalised(pixels: Array, image: ImageSpec) -> Array:
    """Scales pixels uint8 [..., P], channels last, to float32 of the mean and deviation that the backbone expects."""
    values = pixels.astype(jnp.float32).reshape(*pixels.shape[:-1], -1, image.channels) / 255
    return ((values - jnp.array(image.mean)) / jnp.array(image.std)).reshape(pixels.shape)


class Attention(nnx.Module):
    """The attention sublayer: query, key and value kernels in one array [D,D+2K], output kernel, norm before or after.

    K is D, or less where several heads share one of keys and values (grouped queries: Ainslie et al. 2023, arXiv
    2305.13245; with one for all, Shazeer 2019, arXiv 1911.02150). Keys that an adapter prepends have no position: they
    join after the rotation. The kernels say how many heads there are: those of a pruned block hold fewer.
    """

    def __init__(self, spec: EncoderSpec, kind: BlockKind, *, rngs: nnx.Rngs):
        self.window, self.theta = kind.window, kind.theta
        self.pre = spec.norm == "pre"
        self.depth, self.queries_of_key = spec.width // spec.heads, spec.heads // (spec.kv_heads or spec.heads)
        self.qkv = Dense(spec.width, spec.width + 2 * spec.kv_width, rngs=rngs)
        self.output = Dense(spec.width, spec.width, rngs=rngs)
        if kind.attention_norm:
            self.norm = Norm(spec)

    @property
    def _heads(self) -> tuple[int, int]:
        """Returns the number of heads, and of those of keys and values."""
        heads = self.output.kernel[...].shape[0] // self.depth
        return heads, heads // self.queries_of_key

    def _norm(self, x: Array, hooks: BlockHooks) -> Array:
        exact = has_exact_rows(self.output.kernel[...])
        return self.norm(x, hooks, ATTENTION_NORM, exact_rows=exact) if hasattr(self, "norm") else x

    def __call__(self, hidden: Array, mask: Array, hooks: BlockHooks) -> Array:
        return self.scored(hidden, mask, hooks)[0]

    def scored(
        self, hidden: Array, mask: Array, hooks: BlockHooks, score: Callable[..., Array] | None = None
    ) -> tuple[Array, Array | None]:
        """Returns the states [B,T,D] above, and `score` [B,T] of queries and keys where that is asked for."""
        x = self._norm(hidden, hooks) if self.pre else hidden
        heads, kv_heads = self._heads
        widths = {QUERY: heads * self.depth, KEY: kv_heads * self.depth, VALUE: kv_heads * self.depth}
        q, k, v = hooks.joint(widths, x, self.qkv.product, self.qkv.bias[...])
        if self.theta:
            q, k = rotate(q, heads, self.theta), rotate(k, kv_heads, self.theta)
        k, v = hooks.attend(k, v)
        if kv_heads < heads:
            k, v = (repeated(t, kv_heads, heads) for t in (k, v))
        exact = has_exact_rows(self.qkv.kernel[...])
        mixed = attention(q, k, v, mask, heads, self.window, exact_rows=exact)
        y = hooks.linear(ATTENTION_OUTPUT, mixed, self.output.kernel[...], self.output.bias[...])
        y = hidden + hooks.sublayer("attention", x, y)
        scores = None if score is None else score(q, k, mask, heads, exact_rows=exact)
        return y if self.pre else self._norm(y, hooks), scores


def repeated(x: Array, groups: int, heads: int) -> Array:
    """Repeats keys or values [B,S,K] of `groups` heads for `heads` queries: [B,S,D], each for heads in a row."""
    parts = x.reshape(*x.shape[:2], groups, 1, -1)
    wide = jnp.broadcast_to(parts, (*parts.shape[:3], heads // groups, parts.shape[-1]))
    return wide.reshape(*x.shape[:2], -1)


class Mlp(nnx.Module):
    """The mlp sublayer: two dense layers with an activation, gated or not; norm before or after.

    A gated mlp has one kernel [D,2M] below the activation: units, then gates (Shazeer 2020, arXiv 2002.05202).
    """

    def __init__(self, spec: EncoderSpec, *, rngs: nnx.Rngs):
        self.activation, self.pre, self.gated = spec.activation, spec.norm == "pre", spec.mlp == "gated"
        self.up = Dense(spec.width, spec.mlp_width * (2 if self.gated else 1), rank=spec.mlp_rank, rngs=rngs)
        self.down = Dense(spec.mlp_width, spec.width, rank=spec.mlp_rank, rngs=rngs)
        self.norm = Norm(spec)

    def __call__(self, hidden: Array, hooks: BlockHooks) -> Array:
        norm = functools.partial(
            self.norm, hooks=hooks, name=MLP_NORM, exact_rows=has_exact_rows(self.down.kernel[...])
        )
        x = norm(hidden) if self.pre else hidden
        y = hooks.linear(MLP_UP, x, self.up.product, self.up.bias[...])
        act = activation(self.activation, rounded=rounds_states(self.down.product))
        if self.gated:
            units, gates = jnp.split(y, 2, axis=-1)
            y = act(units) * gates
        else:
            y = act(y)
        y = hooks.linear(MLP_DOWN, y, self.down.product, self.down.bias[...])
        y = hidden + hooks.sublayer("mlp", x, y)
        return y if self.pre else norm(y)


class Block(nnx.Module):
    """One transformer layer of a kind."""

    def __init__(self, spec: EncoderSpec, kind: BlockKind, *, rngs: nnx.Rngs):
        self.attention = Attention(spec, kind, rngs=rngs)
        self.mlp = Mlp(spec, rngs=rngs)

    def __call__(self, hidden: Array, mask: Array, hooks: BlockHooks) -> Array:
        output = self.mlp(self.attention(hidden, mask, hooks), hooks)
        return hooks.sublayer("block", hidden, output)

    def scored(self, hidden: Array, mask: Array, hooks: BlockHooks) -> tuple[Array, Array]:
        """Returns what the block gives [B,T,D], and the attention that each token receives in it [B,T]."""
        middle, scores = self.attention.scored(hidden, mask, hooks, received)
        assert scores is not None
        return hooks.sublayer("block", hidden, self.mlp(middle, hooks)), scores


class Finish(nnx.Module):
    """The final norm of a pre-norm encoder."""

    def __init__(self, spec: EncoderSpec, *, rngs: nnx.Rngs):
        self.norm = Norm(spec)

    def __call__(self, hidden: Array) -> Array:
        return self.norm(hidden)


class Pooler(nnx.Module):
    """A dense layer with tanh on the first token."""

    def __init__(self, spec: EncoderSpec, *, rngs: nnx.Rngs):
        self.dense = Dense(spec.width, spec.width, rngs=rngs)

    def __call__(self, hidden: Array) -> Array:
        first = hidden[:, 0]
        return jnp.tanh(PLAIN_HOOKS.linear("pooler", first, self.dense.kernel[...], self.dense.bias[...]))


@functools.cache
def _graph(module: Any, *described: Any) -> Any:
    """Returns the static half of a module: everything but its weights."""
    return nnx.split(nnx.eval_shape(lambda: module(*described, rngs=nnx.Rngs(0))))[0]


def _merge(module: Any, params: Params, *described: Any) -> Any:
    """Returns the module of `described` (its spec, and a block's kind) with these weights."""
    return nnx.merge(_graph(module, *described), nnx.State(params))


@functools.lru_cache(maxsize=16)
def _shapes(spec: EncoderSpec) -> Params:
    return dict(jax.eval_shape(lambda: Network(spec).init(0)))


@dataclass(frozen=True)
class Network:
    """Pure functions of the architecture `spec`; holds no weights."""

    spec: EncoderSpec

    def init(self, rng: int | Array) -> Params:
        """Returns fresh float32 parameters from a seed or a key."""
        spec, rngs = self.spec, nnx.Rngs(rng)

        def fresh(module: type[nnx.Module], *described: Any) -> Params:
            return nnx.to_pure_dict(nnx.state(module(*described, rngs=rngs)))

        params: Params = {"embeddings": fresh(Embeddings, spec)}
        first = {spec.weights_key(block): block for block in reversed(range(spec.blocks))}
        params["blocks"] = {key: fresh(Block, spec, spec.block_kind(first[key])) for key in sorted(first, key=int)}
        if spec.norm == "pre":
            params["finish"] = fresh(Finish, spec)
        if spec.pooler:
            params["pooler"] = fresh(Pooler, spec)
        return params

    def abstract(self) -> Params:
        """Returns the shapes and dtypes of `init`, without computing anything."""
        return map_leaves(lambda leaf: leaf, _shapes(self.spec))

    def embed(self, params: Params, inputs: Mapping[str, Array], dtype: Any = jnp.float32) -> Array:
        """Computes hidden states [B,T,D] at boundary 0, in `dtype`.

        `inputs` are `ids` int32 [B,T] and, for pairs, `segments` int32 [B,T]; or `ids` [B,T,2] with both. For images,
        `ids` are the pixels uint8 [B,T,P] of each token's patch; scaling and normalising happen here.
        """
        embeddings = _merge(Embeddings, params["embeddings"], self.spec)
        ids, segments = inputs["ids"], inputs.get("segments")
        if self.spec.image is None and ids.ndim == 3:
            ids, segments = ids[..., 0], ids[..., 1]
        return embeddings(ids, segments, jnp.dtype(dtype))

    def run_blocks(
        self,
        params: Params,
        hidden: Array,
        mask: Array,
        adapters: Hooks | None = None,
        *,
        start: int = 0,
        stop: int | None = None,
        taps: Sequence[int] = (),
        rng: Array | None = None,
        remat: bool = False,
    ) -> Any:
        """Runs blocks start..stop-1 on `hidden` [B,T,D] with `mask` bool [B,T].

        Returns the hidden states at boundary `stop`. With `taps`, returns a pair: those states, and a dict of the
        states at the tapped boundaries (start <= tap <= stop). `rng` seeds dropout of the adapters; without it there is
        none. `remat` recomputes each block in the backward pass.
        """
        stop = self.spec.blocks if stop is None else stop
        if not 0 <= start <= stop <= self.spec.blocks:
            raise ValueError(f"start {start} and stop {stop} must satisfy 0 <= start <= stop <= {self.spec.blocks}")
        if any(not start <= tap <= stop for tap in taps):
            raise ValueError(f"taps {tuple(taps)} must lie in {start}..{stop}")
        states = {start: hidden} if start in taps else {}

        for index in range(start, stop):
            block_rng = None if rng is None else jax.random.fold_in(rng, index)

            def run(weights: Params, hidden: Array, index: int = index, block_rng: Array | None = block_rng) -> Array:
                hooks = PLAIN_HOOKS if adapters is None else adapters.block(index, block_rng)
                return _merge(Block, weights, self.spec, self.spec.block_kind(index))(hidden, mask, hooks)

            hidden = (jax.checkpoint(run) if remat else run)(self.block_weights(params, index), hidden)
            if index + 1 in taps:
                states[index + 1] = hidden
        return (hidden, states) if taps else hidden

    def run_scored(
        self, params: Params, hidden: Array, mask: Array, adapters: Hooks | None = None, *, block: int
    ) -> tuple[Array, Array]:
        """Runs one block, without dropout.

        Returns the states [B,T,D] above it, and the attention that each token receives in it, float32 [B,T]; no token
        may have a window.
        """
        hooks = PLAIN_HOOKS if adapters is None else adapters.block(block, None)
        module = _merge(Block, self.block_weights(params, block), self.spec, self.spec.block_kind(block))
        scored: tuple[Array, Array] = module.scored(hidden, mask, hooks)
        return scored

    def block_weights(self, params: Params, block: int) -> Params:
        """Returns the weights of a block, which blocks of one group share."""
        weights: Params = params["blocks"][self.spec.weights_key(block)]
        return weights

    def finish(self, params: Params, hidden: Array) -> Array:
        """Applies the final norm to hidden states; a post-norm encoder has none and returns them as they are."""
        return _merge(Finish, params["finish"], self.spec)(hidden) if self.spec.norm == "pre" else hidden

    def pooled_first(self, params: Params, hidden: Array) -> Array:
        """Applies the backbone's pooler to finished states [B,T,D]: [B,D]."""
        return _merge(Pooler, params["pooler"], self.spec)(hidden)
