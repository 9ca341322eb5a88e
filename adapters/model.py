"""A graft as pure functions: backbone weights, graft weights and inputs to logits.

    model = GraftModel(network, (Lora(),), Classification(), labels)
    params = model.init(jax.random.key(0))                  # {"adapter": {...}, "head": {...}}
    logits = model.logits(backbone, params, {"ids": ids, "mask": mask})

The parameters of a site method lie at `adapter.<method>.<block>.<site>`, those of a feature method
at `adapter.<method>`. The caller chooses which blocks are computed, and from which boundary. Shape letters: `B` batch,
`T` tokens, `D` width of the backbone, `F` features, `C` labels.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp

from adapters.heads.pooling import join_sides, pool
from adapters.hooks import GraftHooks
from adapters.methods.method import Array, FeatureMethod, Method, SiteMethod, feature_methods, select, site_methods
from adapters.patterns import Site
from adapters.specs import Head
from adapters.suffix import SUFFIX, SuffixBlock, require_suffix, shapes_of, with_suffix
from backbone.errors import InputError
from backbone.network.dropping import Drop, require_drops, run_dropping
from backbone.network.encoder import Network
from backbone.trees import Params


@dataclass(frozen=True)
class GraftModel:
    """The static half of a graft; hashable, holds no weights."""

    network: Network  # the backbone without its weights
    methods: tuple[Method, ...]  # methods of the adapter, in the order they act
    head: Head  # settings of the head
    labels: tuple[str, ...]  # names of the labels, in the order of the logits
    suffix: tuple[SuffixBlock, ...] = ()  # blocks whose kernels belong to the graft
    drops: tuple[Drop, ...] = ()  # boundaries at which tokens are dropped

    def __post_init__(self) -> None:
        names = [method.tag for method in self.methods]
        if len(set(names)) != len(names):
            raise InputError(f"adapter: each method may appear once in a graft, got {', '.join(names)}")
        if len(features := feature_methods(self.methods)) > 1:
            known = ", ".join(method.tag for method in features)
            raise InputError(f"adapter: at most one of {known} may feed the head")
        if len(set(self.labels)) != len(self.labels) or not self.labels:
            raise InputError("labels: names must be distinct and at least one")
        if self.head.pooling == "pooler" and not self.network.spec.pooler:
            raise InputError("head.pooling: this backbone has no pooler; use mean, first or attention")
        require_suffix(self.suffix, self.network.spec)
        self._require_leaders()
        _ = self.site_parts, self.taps
        self._require_drops()

    def _require_drops(self) -> None:
        """Raises InputError where dropped tokens would be missed."""
        if self.drops and (self.head.one_answer_per != "row" or self.head.pair != "none"):
            raise InputError(
                f"drops: head.kind={self.head.kind} with pair={self.head.pair} needs every token; tokens are dropped "
                "where one text has one answer"
            )
        if self.drops and (method := self.feature_method) is not None and not method.reads_pooled:
            raise InputError(f"drops: {method.tag} reads the states of every token")
        require_drops(self.drops, self.network.spec, max(self.taps))

    def _require_leaders(self) -> None:
        """Raises InputError where another method acts before one that reads the frozen kernel as if it were alone."""
        taken: dict[Site, str] = {}
        for name, (method, settings) in self.site_parts.items():
            for site in settings:
                if method.leads and site in taken:
                    raise InputError(
                        f"adapter: {name} must come before {taken[site]}, which acts at {site.full_name} too"
                    )
                taken.setdefault(site, name)

    @cached_property
    def site_parts(self) -> dict[str, tuple[SiteMethod, dict[Site, Any]]]:
        """Returns the site methods by name, each with its setting at every matched site."""
        parts: dict[str, tuple[SiteMethod, dict[Site, Any]]] = {}
        for method in site_methods(self.methods):
            with self._field_of(method):
                parts[method.tag] = (method, method.settings(self.network.spec))
        return parts

    @contextlib.contextmanager
    def _field_of(self, method: Method) -> Iterator[None]:
        """Puts the place of a method in a config before the field that an InputError names."""
        number = self.methods.index(method)
        try:
            yield
        except InputError as error:
            raise InputError(f"{f'extra[{number - 1}]' if number else 'adapter'}.{error}") from error

    @cached_property
    def feature_method(self) -> FeatureMethod | None:
        """Returns the method that makes the head's features, if one does."""
        return next(iter(feature_methods(self.methods)), None)

    @cached_property
    def taps(self) -> tuple[int, ...]:
        """Returns the boundaries whose hidden states the head or a feature method reads."""
        if self.feature_method is None:
            return (self.network.spec.blocks,)
        with self._field_of(self.feature_method):
            return self.feature_method.taps(self.network.spec)

    @cached_property
    def adapted_blocks(self) -> tuple[int, ...]:
        """Returns the blocks that do not simply run the trunk, ascending.

        A site method acts there, or they are pruned, or say which tokens are dropped, or run without these.
        """
        adapted = {site.block for _, settings in self.site_parts.values() for site in settings}
        dropping = range(self.drops[0].boundary - 1, self.network.spec.blocks) if self.drops else ()
        return tuple(sorted({*adapted, *dropping, *(part.block for part in self.suffix)}))

    @property
    def sides(self) -> int:
        """Returns how many rows of tokens are encoded for an example: 2 for pairs encoded apart, else 1."""
        return 2 if self.head.pair in ("two_tower", "cosine") else 1

    @property
    def pooled_width(self) -> int:
        """Returns the width of one boundary's states, pooled."""
        width = self.network.spec.width
        return {"two_tower": 4 * width, "cosine": 1}.get(self.head.pair, width)

    @cached_property
    def feature_width(self) -> int:
        """Returns the width F of the head's features."""
        if self.feature_method is None:
            return self.pooled_width
        return self.feature_method.width(self.network.spec) // self.network.spec.width * self.pooled_width

    def init(self, rng: Array) -> Params:
        """Returns fresh float32 parameters; the head is zero, and adapters change nothing (except prefix)."""
        adapter: Params = {}
        for number, method in enumerate(self.methods):
            key = jax.random.fold_in(rng, number)
            if method.tag in self.site_parts:
                adapter[method.tag] = _site_leaves(*self.site_parts[method.tag], key)
            elif self.feature_method is not None:
                adapter[method.tag] = self.feature_method.init(self.network.spec, key)
        head = self.head.init(self.feature_width, len(self.labels))
        if self.head.pooling == "attention":
            head["query"] = jnp.zeros((self.network.spec.width,))
        return {"adapter": adapter, "head": head} | ({SUFFIX: self._suffix_leaves()} if self.suffix else {})

    def _suffix_leaves(self) -> Params:
        """Returns the graft's blocks with zeros in place of what pruning leaves of the trunk's."""
        blocks, spec = self.network.abstract()["blocks"], self.network.spec
        return {str(part.block): shapes_of(part, spec, blocks[str(part.block)]) for part in self.suffix}

    def trunk(self, backbone: Params, params: Params, slots: Array | None = None) -> Params:
        """Returns the parameters of the network below the head: the trunk's, with the graft's blocks in their place."""
        return with_suffix(backbone, params, slots) if self.suffix else backbone

    def abstract(self) -> Params:
        """Returns the shapes and dtypes of `init`."""
        return jax.eval_shape(lambda: self.init(jax.random.key(0)))

    def features(
        self,
        backbone: Params,
        adapter: Params,
        inputs: Mapping[str, Any],
        *,
        slots: Array | None = None,
        rng: Array | None = None,
        remat: bool = False,
        head: Params | None = None,
    ) -> Array:
        """Returns the head's input [B,F], or [B,T,F] for tagging.

        `inputs` holds `mask` bool [B,T] and `ids` int32 [B,T]. Instead of ids it may hold `states`: hidden states
        [B,T,D] by boundary, as `run_blocks` would give them there (the boundary cache). Blocks run from the highest
        of these boundaries that lies under everything still missing. Of pairs encoded apart, both sides follow
        one another: 2B rows for B examples. `head` holds the query of attention pooling; without it the mean is taken.
        """
        stored = {k: jnp.asarray(state) for k, state in inputs.get("states", {}).items()}
        missing = [tap for tap in self.taps if tap not in stored]
        if not missing:
            tapped = {k: stored[k] for k in self.taps}
            return self.features_from_states(backbone, adapter, tapped, inputs["mask"], head, slots)
        lowest = min([*missing, *(drop.boundary - 1 for drop in self.drops)])
        start = max((k for k in stored if k <= lowest), default=0)
        hidden = stored[start] if start in stored else self.network.embed(backbone, inputs)
        row_slots = slots if slots is None or self.sides == 1 else jnp.repeat(slots, self.sides)
        hooks = GraftHooks(self.site_parts, adapter, row_slots) if self.site_parts else None
        if self.drops:
            states, masks = run_dropping(
                self.network, backbone, hidden, inputs["mask"], hooks, self.drops, start=start, taps=missing
            )
            masks = {tap: masks.get(tap, inputs["mask"]) for tap in self.taps}
            return self.features_from_states(backbone, adapter, {**stored, **states}, masks, head, slots)
        _, states = self.network.run_blocks(
            backbone, hidden, inputs["mask"], hooks, start=start, stop=max(missing), taps=missing, rng=rng, remat=remat
        )
        return self.features_from_states(backbone, adapter, {**stored, **states}, inputs["mask"], head, slots)

    def pooled(
        self, backbone: Params, hidden: Array, mask: Array, head: Params | None = None, slots: Array | None = None
    ) -> Array:
        """Pools the finished states [B,T,D] as the head reads them, sides joined: [B,P], or [B,T,D] for tagging."""
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
        mask: Array | Mapping[int, Array],
        head: Params | None = None,
        slots: Array | None = None,
    ) -> Array:
        """Returns the head's input [B,F], or [B,T,F] for tagging, from the hidden states at `taps`, each [B,T,D].

        Where tokens were dropped, `mask` has one for each tap. A method with parameters runs row by row where `slots`
        choose them.
        """
        last = self.network.spec.blocks
        states = {k: self.network.finish(backbone, states[k]) if k == last else states[k] for k in self.taps}
        masks = mask if isinstance(mask, Mapping) else dict.fromkeys(self.taps, mask)
        # fewer tokens stay at each boundary, so their number names the mask
        by_length = {states[k].shape[1]: masks[k] for k in self.taps}
        mask = masks[self.taps[-1]]

        def pooled(hidden: Array) -> Array:
            return self.pooled(backbone, hidden, by_length[hidden.shape[1]], head, slots)

        method = self.feature_method
        if method is None:
            return pooled(states[last])
        leaves = adapter.get(method.tag, {})
        if slots is None or not leaves:
            return method.features(self.network.spec, leaves, states, mask, pooled)

        def row(leaves: Params, query: Params, states: Mapping[int, Array], mask: Array) -> Array:
            def pooled(hidden: Array) -> Array:
                return self.pooled(backbone, hidden, mask, query)

            return method.features(self.network.spec, leaves, states, mask, pooled)[0]

        def sides(rows: Array) -> Array:
            return rows.reshape(-1, self.sides, *rows.shape[1:])

        queries = {} if head is None or "query" not in head else {"query": head["query"][slots]}
        chosen = jax.tree.map(lambda leaf: leaf[slots], leaves)
        return jax.vmap(row)(chosen, queries, jax.tree.map(sides, dict(states)), sides(mask))

    def logits(
        self,
        backbone: Params,
        params: Params,
        inputs: Mapping[str, Any],
        *,
        slots: Array | None = None,
        rng: Array | None = None,
        remat: bool = False,
    ) -> Array:
        """Returns logits float32 [B,C], or [B,T,C] for tagging; `rng` switches dropout on."""
        block_rng, head_rng = (None, None) if rng is None else jax.random.split(rng)
        adapter, head = params.get("adapter", {}), params["head"]
        backbone = self.trunk(backbone, params, slots)
        features = self.features(backbone, adapter, inputs, slots=slots, rng=block_rng, remat=remat, head=head)
        return self.head.logits(params["head"], features, slots, head_rng)

    def logits_from_states(self, backbone: Params, params: Params, states: Mapping[int, Array], mask: Array) -> Array:
        """Returns logits float32 [B,C], or [B,T,C] for tagging, from the hidden states at `taps`, each [B,T,D]."""
        features = self.features_from_states(backbone, params.get("adapter", {}), states, mask, params["head"])
        return self.head.logits(params["head"], features, None, None)


def _site_leaves(method: SiteMethod, settings: Mapping[Site, Any], key: Array) -> Params:
    """Returns fresh leaves by block and site name; the order of the sites decides their random keys."""
    blocks: Params = {}
    for order, (site, setting) in enumerate(settings.items()):
        leaves = method.init(site, setting, jax.random.fold_in(key, order))
        blocks.setdefault(str(site.block), {})[site.name] = leaves
    return blocks
