"""Spaces: their points, and what is refused before anything runs."""

from __future__ import annotations

import pytest

from backbone.errors import InputError
from tests.trainers.search.searches import config_of, write_space
from trainers.config.load import override
from trainers.search.space import SPACES, Space, control_of, load_space, points_of


def test_the_points_are_the_products_of_each_grid(config):
    space = Space(
        grids=(
            {"adapter.method": ("lora",), "adapter.rank": (2, 4), "seed": (0, 1)},
            {"adapter.method": ("bottleneck",), "adapter.width": (8,)},
        )
    )
    points = points_of(space, config_of(config)).points
    made = [(p.config.adapter.tag, getattr(p.config.adapter, "rank", None), p.config.seed) for p in points]
    assert made == [("lora", 2, 0), ("lora", 2, 1), ("lora", 4, 0), ("lora", 4, 1), ("bottleneck", None, 0)]
    assert len({point.id for point in points}) == 5


def test_equal_configs_are_one_point(config):
    space = Space(grids=({"seed": (0, 1)}, {"seed": (1, 2)}))
    assert [point.config.seed for point in points_of(space, config_of(config)).points] == [0, 1, 2]


def test_a_combination_that_cannot_be_is_left_out_and_named(config):
    space = Space(grids=({"head_start": ("zero",), "head.pooling": ("mean", "attention"), "adapter.method": ("probe",)},
                         {"head.pooling": ("attention",), "adapter.method": ("lora",)}))  # fmt: skip
    points = points_of(space, config_of(config, "plan.stages=all"))
    assert [dict(point.settings).get("adapter.method") for point in points.points] == ["probe", "lora"]
    assert [dict(one.settings)["head.pooling"] for one in points.refused] == ["attention"]
    assert "attention is learned by gradient" in points.refused[0].reason


@pytest.mark.parametrize(
    ("grid", "message"),
    [
        ({"adapter.rnk": (2,)}, "no point with adapter.rnk=2 is feasible: adapter.rnk: no such field in Lora"),
        ({"adapter.rank": (2, "many")}, "no point with adapter.rank=many is feasible"),
        ({"adapter.rank": (0,)}, "rank: must be a positive number"),
        ({"plan.stages": ("auto",)}, "auto chooses between steps by itself"),
        ({"mesh.data": (2,)}, "the trials of a search run on one device"),
        ({"plan.max_memory_mb": (0, 900)}, "plan.max_memory_mb: a search has other steps"),
        ({"target.max_memory_mb": (0, 900)}, "target.max_memory_mb: a search does not check it"),
        ({"target.max_joules": (0, 900)}, "target.max_joules: a search does not check it"),
        ({"target.min_score": (0, 0.9)}, "target: its limits hold for every point of a search"),
        (
            {"subset.method": ("kcentre",), "subset.share": (0.5,), "subset.seed": (0, 1)},
            "subset.seed: kcentre draws nothing",
        ),
        ({"ranks.max_bytes": (9000,)}, "share a program without penalties and adaptive ranks; leave out both"),
        ({"rank": (2,)}, "rank: no such field in TrainConfig"),
    ],
)
def test_a_bad_field_or_value_is_refused(config, grid, message):
    with pytest.raises(InputError, match="space") as error:
        points_of(Space(grids=(grid,)), config_of(config))
    assert message in str(error.value)


@pytest.mark.parametrize(("grids", "message"), [("{}", "at least one field"), ("{'seed': 3},", "expected a tuple")])
def test_a_space_without_values_is_refused(tmp_path, grids, message):
    with pytest.raises(InputError, match=message):
        load_space(str(write_space(tmp_path / "space.py", grids)))


@pytest.mark.parametrize(
    ("text", "message"),
    [("x = 1", "no function get_space"), ("def get_space():\n    return 3", "expected Space"), ("1 / 0", "ZeroDiv")],
)
def test_a_bad_script_is_refused(tmp_path, text, message):
    (tmp_path / "space.py").write_text(text)
    with pytest.raises(InputError, match=message):
        load_space(str(tmp_path / "space.py"))


def test_an_unknown_name_is_refused():
    with pytest.raises(InputError, match="small"):
        load_space("smal")


@pytest.mark.parametrize("name", sorted(path.stem for path in SPACES.glob("*.py") if path.stem != "__init__"))
def test_every_space_that_comes_with_topgraft_fits_a_default_config(config, name):
    points = points_of(load_space(name), config_of(config))
    assert len(points.points) >= 25
    assert not points.refused


def test_a_chosen_subset_gets_its_random_control_once(config):
    grid = {"subset.method": ("margin", "kcentre"), "subset.share": (0.25,), "plan.stages": ("top(1)",)}
    space = Space(grids=(grid, {**grid, "subset.share": (1.0,)}))
    points = points_of(space, config_of(config)).points
    subsets = [(point.config.subset.tag, point.config.subset.share) for point in points]
    assert subsets == [("margin", 0.25), ("kcentre", 0.25), ("margin", 1.0), ("kcentre", 1.0), ("random", 0.25)]
    control = points[-1]
    assert override(config_of(config), [f"{name}={value}" for name, value in control.settings]) == control.config
    assert control_of(points[0].config) == control_of(points[1].config) == control.config
    assert control_of(points[2].config) is None
    near = {**grid, "subset.share": (1.0,), "subset.near": (0.98,)}
    assert len(points_of(Space(grids=(near,)), config_of(config)).points) == 2, "every row that stays needs no control"
    both = Space(grids=({**grid, "subset.method": ("random", "margin")},))
    assert len(points_of(both, config_of(config)).points) == 2
