"""One suite that every freezing schedule inherits.

A new schedule is found by its registration. The suite runs its `example()`.
"""

from __future__ import annotations

import dataclasses
import re

import jax
import numpy as np
import pytest

from backbone.errors import InputError
from backbone.trees import flatten
from backbone.variants.registered import VARIANTS, variants
from tests.trainers.training import trained
from trainers.config import Plan
from trainers.freezing.schedule import RunShape, Schedule, parse, spellings

SCHEDULES = {tag: kind.example() for tag, kind in variants(Schedule).items()}
SHAPES = (
    RunShape(blocks=3, epoch_ends=(10, 20, 30, 40), epochs=4.0, accumulate=1),
    RunShape(blocks=12, epoch_ends=(100, 200, 250), epochs=2.5, accumulate=4),
    RunShape(blocks=6, epoch_ends=(15,), epochs=1.5, accumulate=2),
)


def written(tag: str):
    """Returns the example as `plan.stages` holds it."""
    schedule = SCHEDULES[tag]
    values = [getattr(schedule, field.name) for field in dataclasses.fields(schedule)]
    if not schedule.spelled:
        return values[0]
    return f"{tag}({', '.join(map(str, values))})" if values else tag


@pytest.mark.parametrize("tag", SCHEDULES)
def test_a_schedule_is_read_as_it_is_written(tag):
    assert Plan(stages=written(tag)).schedule == SCHEDULES[tag]
    if SCHEDULES[tag].spelled:
        fields = dataclasses.fields(SCHEDULES[tag])
        takes = f"takes {', '.join(field.name for field in fields)}" if fields else "takes no value"
        with pytest.raises(InputError, match=rf"^{tag}\(1, 2, 3, 4\): {takes}.*; got 4 values$"):
            parse(f"{tag}(1, 2, 3, 4)")


@pytest.mark.parametrize("tag", SCHEDULES)
@pytest.mark.parametrize("shape", SHAPES, ids=range(len(SHAPES)))
def test_stages_end_on_optimiser_steps_and_cover_the_run(tag, shape):
    schedule = SCHEDULES[tag]
    spans = schedule.spans(shape)
    ends = [span.until for span in spans]
    assert ends == sorted(set(ends)), "no stage is empty"
    assert ends[-1] == shape.total
    assert not any(end % shape.accumulate for end in ends[:-1])
    assert spans[0].boundary is not None, "nothing has been seen by which to decide"
    fixed = [span.boundary for span in spans if span.boundary is not None]
    assert all(0 <= boundary <= shape.blocks for boundary in fixed)
    assert schedule.first_adapted(shape.blocks) <= min(fixed), "a block that is ever live has an adapter"
    assert len(fixed) == len(spans) or schedule.signal, "an open boundary is decided by a signal"
    priced = schedule.priced_as(shape)
    assert [span.until for span in priced] == ends
    assert all(span.boundary == (planned.boundary or 0) for span, planned in zip(priced, spans, strict=True))
    assert 0 <= schedule.warm_blocks(2) <= shape.blocks


@pytest.mark.parametrize("tag", [tag for tag in SCHEDULES if SCHEDULES[tag].signal])
def test_a_boundary_that_is_decided_leaves_the_top_block_live(tag):
    draw = np.random.default_rng(0)
    for boundary in range(3):
        before, after = (draw.uniform(size=3 - boundary).tolist() for _ in range(2))
        assert boundary <= SCHEDULES[tag].decide(before, after, boundary) <= 2


@pytest.mark.parametrize("tag", SCHEDULES)
def test_a_run_follows_its_schedule_and_the_cache_changes_nothing(tag, task, tmp_path):
    cached, progress = trained(task, tmp_path / "cached", stages=written(tag))
    boundaries = [stage.boundary for stage in progress.stages]
    if any(boundaries):
        plain, _ = trained(task, tmp_path / "plain", "none", stages=written(tag))
        for path in plain:
            np.testing.assert_allclose(cached[path], plain[path], atol=2e-5, err_msg=path)
    spans = dataclasses.replace(task, config=dataclasses.replace(task.config, plan=Plan(stages=written(tag)))).spans
    assert [stage.until for stage in progress.stages] == [span.until for span in spans]
    assert [b for b, span in zip(boundaries, spans, strict=True) if span.boundary is not None] == [
        span.boundary for span in spans if span.boundary is not None
    ]
    fresh = flatten(task.model.init(jax.random.key(0)))
    for path, leaf in cached.items():
        if ".lora." in path and path.endswith(".b"):
            moved = int(path.split(".")[2]) >= min(boundaries)
            assert np.array_equal(leaf, fresh[path]) != moved, f"{path}: only live blocks are trained"


def test_fields_with_defaults_may_be_left_out():
    @dataclasses.dataclass(frozen=True)
    class Late(Schedule, tag="late"):
        """Two fields, of which one has a default."""

        k: int
        after: float = 0.5

        def spans(self, shape):
            raise AssertionError("nobody runs it")

    try:
        assert (parse("late(2)"), parse("late(2, 0.25)")) == (Late(2, 0.5), Late(2, 0.25))
        assert "late(k, after=0.5)" in spellings()
        for text, count in (("late", "0 values"), ("late()", "0 values"), ("late(1, 2, 3)", "3 values")):
            with pytest.raises(InputError, match=rf"^{re.escape(text)}: takes k, after=0\.5; got {count}$"):
                parse(text)
    finally:
        del Schedule.registry.variants["late"], Schedule.registry.files["late"]


def test_a_schedule_that_nobody_defines_names_the_way_to_define_one(tmp_path, monkeypatch):
    with pytest.raises(InputError, match=rf"^stages: 'thawed\(1\)' is none of .*top\(k\).*; .*{VARIANTS}"):
        Plan(stages="thawed(1)")
    (tmp_path / "broken.py").write_text("1/0")
    monkeypatch.setenv(VARIANTS, str(tmp_path / "broken.py"))
    with pytest.raises(InputError, match=r"broken\.py:1: ZeroDivisionError"):
        Plan(stages="thawed(1)")


def test_a_schedule_cannot_have_the_name_of_a_climb():
    with pytest.raises(InputError, match="class Auto: tag='auto': schedule=auto means something else; choose another"):

        class Auto(Schedule, tag="auto"):
            """A schedule that `plan.stages=auto` would never reach."""

            def spans(self, shape): ...
