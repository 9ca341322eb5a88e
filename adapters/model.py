"""A graft as pure functions: backbone weights, graft weights and inputs to logits.

    model = GraftModel(network, (Lora(),), Classification(), labels)
    params = model.init(jax.random.key(0))                  # {"adapter": {...}, "head": {...}}
    logits = model.logits(backbone, params, {"ids": ids, "mask": mask})

The parameters of a site method lie at `adapter.<method>.<block>.<site>`, those of a feature method
at `adapter.<method>`. Which blocks are computed, and from which boundary, is the caller's choice.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp

from adapters.heads.pooling import join_sides, pool
from adapters.hooks import GraftHooks
from adapters.methods import METHODS, FeatureMethod, SiteMethod
from adapters.methods.method import Array, select
from adapters.patterns import Site
from adapters.specs import Head, MethodSpec
from backbone.encoder import Network
from backbone.errors import InputError
from backbone.trees import Params


@dataclass(frozen=True)
class GraftModel:
    """The static half of a graft; hashable, holds no weights."""

    network: Network
    methods: tuple[MethodSpec, ...]
    head: Head
    labels: tuple[str, ...]  # names, in the order of the logits

    def __post_init__(self) -> None:
        names = [spec.method for spec in self.methods]
        if len(set(names)) != len(names):
            raise InputError(f"adapter: each method may appear once in a graft, got {', '.join(names)}")
        if len([m for m in self.methods if isinstance(METHODS[type(m)], FeatureMethod)]) > 1:
            raise InputError(f"adapter: at most one of {', '.join(names)} may feed the head (probe, ladder)")
        if len(set(self.labels)) != len(self.labels) or not self.labels:
            raise InputError("labels: names must be distinct and at least one")
        if self.head.pooling == "pooler" and not self.network.spec.pooler:
            raise InputError("head.pooling: this backbone has no pooler; use mean, first or attention")
        self._require_leaders()
        _ = self.site_parts, self.taps

    def _require_leaders(self) -> None:
        """A method that reads the frozen kernel as if it were alone comes first at its sites."""
        taken: dict[Site, str] = {}
        for name, (method, settings) in self.site_parts.items():
            for site in settings:
                if method.leads and site in taken:
                    raise InputError(
                        f"adapter: {name} must come before {taken[site]}, which acts at {site.full_name} too"
                    )
                taken.setdefault(site, name)

    @cached_property
    def site_parts(self) -> dict[str, tuple[SiteMethod[Any], dict[Site, Any]]]:
        """Site methods by name, with the setting of each matched site."""
        parts = {}
        for spec in self.methods:
            method = METHODS[type(spec)]
            if isinstance(method, SiteMethod):
                parts[spec.method] = (method, method.settings(spec, self.network.spec))
        return parts

    @cached_property
    def feature_part(self) -> tuple[MethodSpec, FeatureMethod[Any]] | None:
        """The method that feeds the head, if one does."""
        for spec in self.methods:
            method = METHODS[type(spec)]
            if isinstance(method, FeatureMethod):
                return spec, method
        return None

    @cached_property
    def taps(self) -> tuple[int, ...]:
        """Boundaries whose hidden states the head or a side network reads."""
        if self.feature_part is None:
            return (self.network.spec.blocks,)
        spec, method = self.feature_part
        return method.taps(spec, self.network.spec)

    @cached_property
    def adapted_blocks(self) -> tuple[int, ...]:
        """Blocks in which a site method acts, ascending."""
        return tuple(sorted({site.block for _, settings in self.site_parts.values() for site in settings}))

    @property
    def sides(self) -> int:
        """Rows of tokens that are encoded for an example: 2 for pairs encoded apart, else 1."""
        return 2 if self.head.pair in ("two_tower", "cosine") else 1

    @property
    def pooled_width(self) -> int:
        """Width of one boundary's states, pooled."""
        width = self.network.spec.width
        return {"two_tower": 4 * width, "cosine": 1}.get(self.head.pair, width)

    @cached_property
    def feature_width(self) -> int:
        """Width F of the head's features."""
        if self.feature_part is None:
            return self.pooled_width
        spec, method = self.feature_part
        return method.width(spec, self.network.spec) // self.network.spec.width * self.pooled_width

    def init(self, rng: Array) -> Params:
        """Fresh float32 parameters; site methods are the identity (prefix is not) and the head is zero."""
        adapter: Params = {}
        for number, spec in enumerate(self.methods):
            key = jax.random.fold_in(rng, number)
            if spec.method in self.site_parts:
                method, settings = self.site_parts[spec.method]
                blocks: Params = {}
                for order, (site, setting) in enumerate(settings.items()):
                    leaves = method.init(spec, site, setting, jax.random.fold_in(key, order))
                    blocks.setdefault(str(site.block), {})[site.name] = leaves
                adapter[spec.method] = blocks
            elif self.feature_part is not None:
                adapter[spec.method] = self.feature_part[1].init(spec, self.network.spec, key)
        head = self.head.init(self.feature_width, len(self.labels))
        if self.head.pooling == "attention":
            head["query"] = jnp.zeros((self.network.spec.width,))
        return {"adapter": adapter, "head": head}

    def abstract(self) -> Params:
        """Shapes and dtypes of `init`."""
        return jax.eval_shape(lambda: self.init(jax.random.key(0)))

    def features(
        self,
        backbone: Params,
        adapter: Params,
        inputs: Mapping[str, Any],
        *,
        dtype: Any = jnp.float32,
        slots: Array | None = None,
        rng: Array | None = None,
        remat: bool = False,
        head: Params | None = None,
    ) -> Array:
        """The head's input [B,F], or [B,T,F] for tagging.

        `inputs` holds `mask` bool [B,T] and `ids` int32 [B,T], or instead of ids `states`: hidden states
        [B,T,D] by boundary, as `run_blocks` would give them below (the boundary cache). Blocks run from
        the highest of them that lies under everything still missing. Of pairs encoded apart, both sides lie
        there one after the other: 2B rows for B examples. `head` holds the query of attention pooling;
        without it that is the mean.
        """
        given = {k: state.astype(dtype) for k, state in inputs.get("states", {}).items()}
        missing = [tap for tap in self.taps if tap not in given]
        if not missing:
            chosen = {k: given[k] for k in self.taps}
            return self.features_from_states(backbone, adapter, chosen, inputs["mask"], head, slots)
        start = max((k for k in given if k <= min(missing)), default=0)
        hidden = given[start] if start in given else self.network.embed(backbone, inputs, dtype)
        each = slots if slots is None or self.sides == 1 else jnp.repeat(slots, self.sides)
        hooks = GraftHooks(self.site_parts, adapter, each) if self.site_parts else None
        _, states = self.network.run_blocks(
            backbone, hidden, inputs["mask"], hooks, start=start, stop=max(missing), taps=missing, rng=rng, remat=remat
        )
        return self.features_from_states(backbone, adapter, {**given, **states}, inputs["mask"], head, slots)

    def pooled(
        self, backbone: Params, hidden: Array, mask: Array, head: Params | None = None, slots: Array | None = None
    ) -> Array:
        """Finished states [B,T,D] as the head reads them, sides joined: [B,P], or [B,T,D] for tagging."""
        query = None if head is None or "query" not in head else select(head["query"], slots)
        if query is not None and slots is not None:
            query = jnp.repeat(query, self.sides, axis=0)
        features = pool(self.head.pooling, self.network, backbone, hidden, mask, query)
        return features if self.sides == 1 else join_sides(self.head.pair, features)

    def features_from_states(
        self,
        backbone: Params,
        adapter: Params,
        states: Mapping[int, Array],
        mask: Array,
        head: Params | None = None,
        slots: Array | None = None,
    ) -> Array:
        """The head's input [B,F], or [B,T,F] for tagging, from the hidden states at `taps`, each [B,T,D].

        A side network runs row by row where `slots` choose its parameters.
        """
        last = self.network.spec.blocks
        states = {k: self.network.finish(backbone, states[k]) if k == last else states[k] for k in self.taps}

        def pooled(hidden: Array) -> Array:
            return self.pooled(backbone, hidden, mask, head, slots)

        if self.feature_part is None:
            return pooled(states[last])
        spec, method = self.feature_part
        leaves = adapter.get(spec.method, {})
        if slots is None or not leaves:
            return method.features(spec, self.network.spec, leaves, states, mask, pooled)

        def row(leaves: Params, own: Params, states: Mapping[int, Array], mask: Array) -> Array:
            def pooled(hidden: Array) -> Array:
                return self.pooled(backbone, hidden, mask, own)

            return method.features(spec, self.network.spec, leaves, states, mask, pooled)[0]

        def sides(rows: Array) -> Array:
            return rows.reshape(-1, self.sides, *rows.shape[1:])

        own = {} if head is None or "query" not in head else {"query": head["query"][slots]}
        chosen = jax.tree.map(lambda leaf: leaf[slots], leaves)
        return jax.vmap(row)(chosen, own, jax.tree.map(sides, dict(states)), sides(mask))

    def logits(
        self,
        backbone: Params,
        params: Params,
        inputs: Mapping[str, Any],
        *,
        dtype: Any = jnp.float32,
        slots: Array | None = None,
        rng: Array | None = None,
        remat: bool = False,
    ) -> Array:
        """Logits float32 [B,C], or [B,T,C] for tagging; `rng` switches dropout on."""
        block_rng, head_rng = (None, None) if rng is None else jax.random.split(rng)
        adapter, head = params.get("adapter", {}), params["head"]
        features = self.features(
            backbone, adapter, inputs, dtype=dtype, slots=slots, rng=block_rng, remat=remat, head=head
        )
        return self.head.logits(params["head"], features, slots, head_rng)

    def logits_from_states(self, backbone: Params, params: Params, states: Mapping[int, Array], mask: Array) -> Array:
        """Logits float32 [B,C], or [B,T,C] for tagging, from the hidden states at `taps`, each [B,T,D]."""
        features = self.features_from_states(backbone, params.get("adapter", {}), states, mask, params["head"])
        return self.head.logits(params["head"], features, None, None)
