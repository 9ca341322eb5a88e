"""Sites of an encoder, and glob patterns over their names that must each match something. Imports no jax.

A site's name is `attention/query`, its full name `3/attention/query`. A pattern with as many segments as a full name
is matched against full names, any other against names. Matching is by segment: `*` does not cross a slash.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from adapters.methods.settings import block_range
from backbone.errors import InputError, nearest
from backbone.network.sites import (
    ATTEND,
    ATTENTION_NORM,
    ATTENTION_OUTPUT,
    KEY,
    LINEAR,
    MLP_DOWN,
    MLP_UP,
    NORM,
    QUERY,
    SUBLAYER,
    VALUE,
)
from backbone.spec import EncoderSpec
from backbone.trees import Params


@dataclass(frozen=True, order=True)
class Site:
    """One place in one block."""

    block: int  # block number
    name: str  # name within the block, e.g. attention/query
    inputs: int  # width of the input
    outputs: int  # width of the output

    @property
    def full_name(self) -> str:
        """Returns the name with the block number before it."""
        return f"{self.block}/{self.name}"


def leaves_at(leaves: Params, site: Site) -> Params:
    """Returns the leaves at one site of a method's leaves, by block and site name; {} where the method has none."""
    at_site: Params = leaves.get(str(site.block), {}).get(site.name, {})  # trees lose nodes without leaves
    return at_site


def sites_of(encoder: EncoderSpec, kind: tuple[str, ...], blocks: str = "") -> tuple[Site, ...]:
    """Returns all sites of a kind (`LINEAR`, `SUBLAYER`, `ATTEND`, `NORM`, or several) in the chosen blocks, in order.

    A block without an attention norm (ModernBERT's first) has no site there.
    """
    d, kv, m = encoder.width, encoder.kv_width, encoder.mlp_width
    hidden = 2 * m if encoder.mlp == "gated" else m
    widths = dict.fromkeys((QUERY, KEY, VALUE, ATTENTION_OUTPUT, *SUBLAYER, *ATTEND, *NORM), (d, d))
    widths |= {MLP_UP: (d, hidden), MLP_DOWN: (m, d)}
    widths |= {KEY: (d, kv), VALUE: (d, kv), ATTEND[0]: (kv, kv)}
    return tuple(
        Site(b, name, *widths[name])
        for b in block_range(blocks, encoder.blocks)
        for name in kind
        if name != ATTENTION_NORM or encoder.block_kind(b).attention_norm
    )


def _matches(pattern: str, site: Site) -> bool:
    globs = pattern.split("/")
    for name in (site.name, site.full_name):
        segments = name.split("/")
        if len(segments) == len(globs) and all(fnmatchcase(s, g) for s, g in zip(segments, globs, strict=True)):
            return True
    return False


def match(patterns: Sequence[str], sites: Sequence[Site], field: str = "sites") -> dict[str, tuple[Site, ...]]:
    """Returns the sites that each pattern matched; raises InputError naming `field` if one matched nothing."""
    groups = {pattern: tuple(site for site in sites if _matches(pattern, site)) for pattern in patterns}
    for pattern, matched in groups.items():
        if not matched:
            names = {site.name for site in sites} | (
                {site.full_name for site in sites} if pattern[:1].isdigit() else set()
            )
            raise InputError(f"{field}: the pattern {pattern!r} matches no site; {nearest(pattern, names)}")
    return groups


def matched_sites(patterns: Sequence[str], sites: Sequence[Site], field: str = "sites") -> tuple[Site, ...]:
    """Returns the sites that at least one pattern matched, in order."""
    matched = {site for group in match(patterns, sites, field).values() for site in group}
    return tuple(site for site in sites if site in matched)


def covering(sites: Collection[Site], encoder: EncoderSpec) -> tuple[tuple[str, ...], str]:
    """Returns the shortest patterns, and range of blocks, that match exactly `sites`."""
    blocks = sorted({site.block for site in sites})
    names = tuple(dict.fromkeys(site.name for site in sites))
    if blocks != list(range(blocks[0], blocks[-1] + 1)) or len(sites) != len(blocks) * len(names):
        return tuple(site.full_name for site in sites), ""
    return names, "" if len(blocks) == encoder.blocks else f"{blocks[0]}:{blocks[-1] + 1}"


assert set(LINEAR) == {QUERY, KEY, VALUE, ATTENTION_OUTPUT, MLP_UP, MLP_DOWN}
