"""Spaces of a search: which fields of a config may vary, and the points that they make. Imports no jax.

    def get_space():
        return Space(grids=({"adapter.method": ("lora",), "adapter.rank": (2, 4, 8), "seed": (0, 1)},))

A grid maps fields, spelled as for `--set`, to values. Its points are all combinations; those of a space are the points
of its grids. The order of the fields counts as the order of `--set` does: a tag comes before the fields of its variant.
"""

from __future__ import annotations

import itertools
import runpy
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from backbone.errors import InputError, nearest
from backbone.meshes.mesh import Mesh
from backbone.records import digest, encode
from backbone.variants.scripts import failure, imports_of, line_in
from trainers.config import TrainConfig
from trainers.config.load import override
from trainers.subsets.random import RandomSubset

SPACES = Path(__file__).parent / "spaces"
Settings = tuple[tuple[str, str], ...]  # (field, value) in the spelling of `--set`


@dataclass(frozen=True)
class Space:
    """The configs among which a search chooses."""

    grids: tuple[Mapping[str, Sequence[object]], ...]  # values by field, as for --set; the space is their union

    def __post_init__(self) -> None:
        if not any(self.grids):
            raise InputError("grids: a space needs at least one field")
        for grid in self.grids:
            for name, values in grid.items():
                if isinstance(values, str) or not isinstance(values, Sequence) or not values:
                    raise InputError(f"grids: {name}: expected a tuple of values, got {values!r}")

    def settings(self) -> Iterator[Settings]:
        """Yields the settings of every point, grid by grid; the last field varies fastest."""
        for grid in self.grids:
            for values in itertools.product(*grid.values()):
                yield tuple((name, spelled(value)) for name, value in zip(grid, values, strict=True))


def spelled(value: object) -> str:
    """Returns a value as `--set` reads it: true, 0.001, or items with commas between."""
    if isinstance(value, bool):
        return str(value).lower()
    return ",".join(map(spelled, value)) if isinstance(value, (tuple, list)) else str(value)


@dataclass(frozen=True)
class Point:
    """One config of a space."""

    id: str  # eight digits, made from the settings
    settings: Settings
    config: TrainConfig


def point_of(settings: Settings, config: TrainConfig) -> Point:
    """Returns the point of some settings over a config; raises InputError for settings that it does not take."""
    return Point(_id_of(settings), settings, override(config, [f"{name}={value}" for name, value in settings]))


@dataclass(frozen=True)
class Refused:
    """A combination of a space that is no config, or fits no backbone."""

    settings: Settings
    reason: str


@dataclass(frozen=True)
class Points:
    """The points of a space over a config."""

    points: tuple[Point, ...]
    refused: tuple[Refused, ...] = ()


def load_space(name: str) -> Space:
    """Returns the space of a file, or the one of that name in `trainers/search/spaces`; raises InputError."""
    path = Path(name)
    if not path.is_file():
        path = SPACES / f"{name}.py"
    if not path.is_file() or path.stem == "__init__":
        names = sorted(file.stem for file in SPACES.glob("*.py") if file.stem != "__init__")
        raise InputError(f"--space {name}: no such file, and no space of that name; {nearest(name, names)}")
    with imports_of(path):
        try:
            space = runpy.run_path(str(path))["get_space"]()
        except KeyboardInterrupt:
            raise
        except KeyError:
            raise InputError(f"{path}: defines no function get_space()") from None
        except InputError as error:
            raise InputError(f"{path}: {error}") from error
        except BaseException as error:  # whatever the user's script raises, `sys.exit` included
            raise InputError(f"{path}{line_in(path, error)}: the space failed: {failure(error)}") from error
    if not isinstance(space, Space):
        raise InputError(f"{path}: get_space() returned {type(space).__name__}, expected Space")
    return space


def points_of(space: Space, config: TrainConfig) -> Points:
    """Returns the distinct points of a space over a config, in its order.

    A chosen subset of the rows gets a control, the random subset of its size, unless the space has it already. Raises
    InputError for a field or a value that no combination allows, and for a space without a point.
    """
    points: dict[str, Point] = {}
    refused: list[Refused] = []
    for settings in space.settings():
        try:
            point = point_of(settings, config)
            _require_searchable(point.config, config, [name for name, _ in settings])
        except InputError as error:
            refused.append(Refused(settings, str(error)))
            continue
        points.setdefault(digest(encode(point.config)), point)
    for point in tuple(points.values()):
        if (control := control_of(point.config)) is not None:
            settings = _control_settings(point.settings, control)
            points.setdefault(digest(encode(control)), Point(_id_of(settings), settings, control))
    require_used(points.values(), refused)
    return Points(tuple(points.values()), tuple(refused))


def require_used(points: Collection[Point], refused: Sequence[Refused]) -> None:
    """Raises InputError if a refused setting occurs in no point: it is a mistake, not a combination that cannot be."""
    used = {setting for point in points for setting in point.settings}
    for one in refused:
        for name, value in one.settings:
            if (name, value) not in used:
                raise InputError(f"space: no point with {name}={value} is feasible: {one.reason}")
    if not used:
        raise InputError("space: it has no feasible point")


def require_checked(config: TrainConfig) -> None:
    """Raises InputError for a limit of a config that a search does not check."""
    for name in ("max_memory_mb", "max_joules"):
        if getattr(config.target, name):
            raise InputError(f"target.{name}: a search does not check it; leave it out, and let the gate check it")
    if config.plan.max_memory_mb:
        raise InputError("plan.max_memory_mb: a search has other steps; leave it out, and train the choice with it")


def _require_searchable(config: TrainConfig, base: TrainConfig, names: Collection[str]) -> None:
    """Raises InputError for a config that is no trial of a search over `base`; `names` are the fields of its point."""
    require_checked(config)
    if config.target != base.target:
        raise InputError("target: its limits hold for every point of a search; set them in the config, not in a space")
    if "subset.seed" in names and not config.subset.reads_seed:
        raise InputError(
            f"subset.seed: {config.subset.tag} draws nothing, so each seed has the same rows; leave it out"
        )
    if config.mesh != Mesh():
        raise InputError("mesh: the trials of a search run on one device; leave it out")
    if config.penalties or config.ranks.max_bytes:
        raise InputError(
            "penalties: the trials of a search share a program without penalties and adaptive ranks; leave out both, "
            "and set them when the chosen config is trained"
        )
    if config.climbs:
        raise InputError(
            "plan.stages: auto chooses between steps by itself; name the stages in the space, as in "
            '"plan.stages": ("top(1)", "top(2)")'
        )


def control_of(config: TrainConfig) -> TrainConfig | None:
    """Returns the config on a random subset of the same size; None where the rows are all, or random already."""
    subset = config.subset
    if subset.share == 1 or subset.tag == RandomSubset.tag:
        return None
    return replace(config, subset=RandomSubset(subset.share, subset.balance, subset.near, subset.seed))


def _control_settings(settings: Settings, control: TrainConfig) -> Settings:
    """Returns the settings of a point with the subset of its control, every field of it by name."""
    subset = [(f"subset.{name}", spelled(value)) for name, value in vars(control.subset).items()]
    rest = [(name, value) for name, value in settings if name.partition(".")[0] != "subset"]
    return (("subset.method", control.subset.tag), *subset, *rest)


def _id_of(settings: Settings) -> str:
    return digest([list(setting) for setting in settings]).removeprefix("sha256:")[:8]
