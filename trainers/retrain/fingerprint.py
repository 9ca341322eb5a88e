"""The origin of a graft as one small record: equal records, nothing to train. Imports no jax.

Rows count by content: files are hashed first, and rows are read and hashed only where the bytes are new. The config
counts as far as it changes what is trained, and the backbone by its ids. Numerics count by a version that is raised by
hand, so that an upgrade of a library is no reason to retrain. A variant of a user's own counts in full, with its code.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from adapters.heads.head import kinds_for
from backbone.errors import InputError
from backbone.home import stored_ids
from backbone.precisions.record import trunk_id
from backbone.records import digest, encode
from trainers.config import TrainConfig
from trainers.config.former import counted_values, former_values, with_former_stages, with_stages
from trainers.config.own import own_in_graft, own_in_run, require_code
from trainers.data.prepare import FORMER_READERS, read_splits, source_of
from trainers.data.splits import NUMERICS_VERSION
from trainers.retrain.rows import Rows, hashed

SCHEME = 2  # how `config`, `graft` and `gate` are hashed; 1 also hashed fields that have their defaults
OWN_SCHEME = 3  # as 2, with the settings and the code of the user's own variants; where there are some
LEARNT_FROM = ("train", "dev")  # splits that decide what is trained
# fields of a config that are no part of `Fingerprint.config`: they change how a run goes, or are hashed apart
RUNNING = ("log_every", "checkpoint_seconds", "input_threads", "mesh")
APART = ("name", "backbone", "precision", "retrain", "data", "target", *RUNNING)


@dataclass(frozen=True)
class Fingerprint:
    """The origin of a graft that exists or would be trained."""

    source: str  # names the bytes of the files and how they are read
    rows: dict[str, str]  # fingerprint of each split
    config: str  # digest of the settings that change the training
    graft: str  # digest of method, head and backbone, which a graft to start from must share
    weights_id: str
    preprocessing_id: str
    numerics: int  # version of the numerics, raised by hand
    gate: str  # digest of the bars that a candidate must pass
    scheme: int = 1  # scheme of the digests
    moved: tuple[str, ...] = ()  # hashes of the development rows that training keeps for good

    def same_training(self, other: Fingerprint) -> bool:
        """Returns whether training would give the same graft again; both must be of one scheme."""
        return self.scheme == other.scheme and self._trained == other._trained

    def same_settings(self, other: Fingerprint) -> bool:
        """Returns whether config, backbone and numerics are the same, so that only rows can have changed."""
        return self.scheme == other.scheme and self._trained[1:] == other._trained[1:]

    @property
    def _trained(self) -> tuple[Any, ...]:
        return (
            [self.rows.get(name, "") for name in LEARNT_FROM],
            self.config,
            self.weights_id,
            self.preprocessing_id,
            self.numerics,
        )

    @property
    def key(self) -> str:
        """Returns a short name of the training."""
        return digest(list(self._trained)).removeprefix("sha256:")[:24]


@dataclass(frozen=True)
class Taken:
    """The present fingerprint of a task, and its rows where they had to be read for it."""

    fingerprint: Fingerprint  # in the scheme of this version
    former: Mapping[int, Fingerprint]  # in former schemes, to compare with what former versions stored
    rows: Rows | None
    config: TrainConfig  # config with its stages by name

    def in_scheme(self, scheme: int) -> Fingerprint:
        """Returns the fingerprint to compare with one of `scheme`."""
        return self.former.get(scheme, self.fingerprint)

    def judged_by(self, budget: str) -> Taken:
        """Returns the fingerprint with the digest of a budget among the bars that a candidate must pass."""
        if not budget:
            return self

        def under(one: Fingerprint) -> Fingerprint:
            return replace(one, gate=digest([one.gate, budget]))

        former = {scheme: under(one) for scheme, one in self.former.items()}
        return replace(self, fingerprint=under(self.fingerprint), former=former)

    def gives(self, stored: Fingerprint) -> bool:
        """Returns whether training would give again the graft of the fingerprint `stored`."""
        return stored.same_training(self.in_scheme(stored.scheme))

    def has_settings_of(self, stored: Fingerprint) -> bool:
        """Returns whether the fingerprint `stored` was made from these settings, whatever the rows were."""
        return self.in_scheme(stored.scheme).config == stored.config


def take(config: TrainConfig, before: Fingerprint | None, keys: Collection[tuple[int, str]] = ()) -> Taken:
    """Takes the fingerprint of a config as its data are now; `before` spares reading files with the same bytes.

    Stages that the config leaves open mean what they meant for the live version `before`, if its settings are these.
    Else they mean what they meant in a former run, one of `keys` by scheme and key. So a new default retrains nothing.
    Raises InputError for bad data, or a backbone that is not there.
    """
    if "retrain" not in config.head.supports:
        raise InputError(
            f"head.kind: {config.head.kind} cannot be retrained by a gate that compares labels; "
            f"train it with `topgraft train`, or use {kinds_for('retrain')}"
        )
    require_code(config)
    source = source_of(config.data, config.head.column)
    base, preprocessing = stored_ids(config.backbone)
    weights = trunk_id(base, config.precision)

    def taken(rows: ReadRows, *, anew: bool) -> Taken:
        meanings = [with_stages(config), *([with_former_stages(config)] if config.plan.is_open else ())]
        ids = (weights, preprocessing)
        taken_as = [_taken(meaning, source.key(), rows, ids, anew=anew) for meaning in meanings]
        like_live = (one for one in taken_as if before is not None and one.has_settings_of(before))
        judged = (one for one in taken_as if any(one.in_scheme(scheme).key == key for scheme, key in keys))
        return next(itertools.chain(like_live, judged, taken_as))

    if before is not None:
        unread = taken(ReadRows({}, before.rows, before.moved), anew=False)
        if before.source == source.key():
            return unread
        # a former reader's rows may differ from this one's; that alone is no reason to train anew
        if before.source in map(source.key, FORMER_READERS) and unread.gives(before):
            return unread
    return taken(read(config), anew=True)


def _taken(config: TrainConfig, source: str, rows: ReadRows, ids: tuple[str, str], *, anew: bool) -> Taken:
    """Returns the fingerprint of a config with its stages by name, and the former ones; `ids` are the backbone's."""
    former = {1: _former_digests(config, *ids), SCHEME: _digests(config, *ids)}
    has_own = bool(own_in_run(config))
    now, scheme = (_own_digests(config, former[SCHEME]), OWN_SCHEME) if has_own else (former[SCHEME], SCHEME)

    def made(digests: _Digests, scheme: int) -> Fingerprint:
        trained = (source, rows.prints, digests.config, digests.graft, *ids)
        return Fingerprint(*trained, NUMERICS_VERSION, digests.gate, scheme, rows.moved)

    before = {number: made(digests, number) for number, digests in former.items()}
    return Taken(made(now, scheme), before, rows.rows if anew else None, config)


class _Digests(NamedTuple):
    config: str
    graft: str
    gate: str


def _digests(config: TrainConfig, weights: str, preprocessing: str) -> _Digests:
    """Returns the digests of a config.

    A field at its default is no part of them, so a new field changes no task.
    """
    values: dict[str, Any] = {k: v for k, v in counted_values(config).items() if k not in _unused(config)}
    ids = {"weights_id": weights, "preprocessing_id": preprocessing}
    data, target = values.get("data", {}), values.get("target", {})
    reading = {k: v for k, v in data.items() if k in ("max_tokens", "difficulty", "label_names")}
    goal = {k: v for k, v in target.items() if k in ("min_score", "max_cpu_seconds")}  # these end a climb
    shape = {name: values[name] for name in ("adapter", "head") if name in values}
    policy = values.get("retrain", {})
    judged = {"gate": policy.get("gate", {}), "target": target, "metric": values.get("metric", "")}
    if "rows" in policy:
        judged["rows"] = policy["rows"]
    trained = {k: v for k, v in values.items() if k not in APART}
    return _Digests(
        config=digest(trained | {"data": reading, "target": goal}),
        graft=digest(shape | ids | {"max_tokens": config.data.max_tokens}),
        gate=digest(judged),
    )


def _own_digests(config: TrainConfig, plain: _Digests) -> _Digests:
    """Returns the digests with the settings, in full, and the code of the user's own variants."""
    return _Digests(
        config=digest([plain.config, encode(own_in_run(config))]),
        graft=digest([plain.graft, encode(own_in_graft(config))]),
        gate=plain.gate,
    )


def _unused(config: TrainConfig) -> tuple[str, ...]:
    """Returns the sections that add nothing to the graft."""
    used = {
        "out_of_scope": bool(config.out_of_scope.false_alarms),
        "exits": bool(config.exits.boundaries),
        "validate": False,  # of former configs
    }
    return tuple(name for name, is_used in used.items() if not is_used)


def _former_digests(config: TrainConfig, weights: str, preprocessing: str) -> _Digests:
    """Returns the digests of scheme 1, which hashed every field of its time."""
    values = former_values(config)
    reading = {k: v for k, v in values["data"].items() if k in ("max_tokens", "difficulty", "label_names")}
    ids = {"weights_id": weights, "preprocessing_id": preprocessing, "max_tokens": config.data.max_tokens}
    goal = {"min_score": config.target.min_score, "max_cpu_seconds": config.target.max_cpu_seconds}
    shape = {"adapter": values["adapter"], "head": values["head"], "compute_dtype": values["compute_dtype"]}
    trained = {k: v for k, v in values.items() if k not in (*APART, *_unused(config))}
    return _Digests(
        config=digest(trained | {"data": reading, "target": goal}),
        graft=digest(shape | ids),
        gate=digest({"gate": values["retrain"]["gate"], "target": values["target"], "metric": config.metric}),
    )


@dataclass(frozen=True)
class ReadRows:
    """The rows of a task as they are now."""

    rows: Rows  # rows as hashes, by split
    prints: dict[str, str]  # fingerprint of each split
    moved: tuple[str, ...]  # hashes of the rows that were moved from the development share to training


def read(config: TrainConfig) -> ReadRows:
    """Reads every split's rows as hashes, and their fingerprints."""
    if not config.data.train:
        raise InputError("data.train: no file; name one with --set data.train=FILE")
    splits = read_splits(config.data, config.head.column)
    return ReadRows(*hashed(splits.rows), tuple(sorted({*config.data.moved, *splits.moved})))


def keeping(config: TrainConfig, before: Fingerprint | None) -> TrainConfig:
    """Returns the config with the rows that the live version's training kept, so that they stay there."""
    if before is None or not before.moved:
        return config
    return replace(config, data=replace(config.data, moved=tuple(sorted({*config.data.moved, *before.moved}))))
