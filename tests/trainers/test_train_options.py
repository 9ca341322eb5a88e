"""What each option of a training run does, one at a time beside the same run without it."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

import topgraft
from tests.tiny import rows, write_config, write_csv
from trainers.config.load import load_config
from trainers.train import TrainResult, train

BASE = ("epochs=2", "optimizer.learning_rate=0.005")


class Trained:
    """A run's result, leaves and logged scalars."""

    def __init__(self, result: TrainResult):
        self.result = result
        self.leaves = load_file(Path(result.graft) / "graft.safetensors")
        lines = (Path(result.graft).parent / "metrics.jsonl").read_text().splitlines()
        self.lines = [json.loads(line) for line in lines]

    def logged(self, name: str) -> list[float]:
        return [line[name] for line in self.lines if name in line]

    def steps_of(self, name: str) -> list[int]:
        return [line["step"] for line in self.lines if name in line]

    def apart(self, other: Trained) -> float:
        """Largest difference of a leaf."""
        assert self.leaves.keys() == other.leaves.keys()
        return max(float(np.abs(leaf - other.leaves[name]).max()) for name, leaf in self.leaves.items())


@pytest.fixture(scope="module")
def trained(tiny_path, tmp_path_factory) -> Callable[..., Trained]:
    """Trains with these settings; the same ones once."""
    known: dict[tuple[str, ...], Trained] = {}

    def run(*settings: str) -> Trained:
        if settings not in known:
            folder = tmp_path_factory.mktemp("run")
            script = write_config(folder / "config.py", tiny_path, folder)
            known[settings] = Trained(train(load_config(script, (*BASE, *settings)), folder / "work"))
        return known[settings]

    return run


def test_steps_of_a_fraction_of_an_epoch(trained):
    per_epoch = trained().steps_of("dev/accuracy")[0]
    assert trained().result.steps == 2 * per_epoch
    part = trained("epochs=1.5")
    assert part.result.steps == per_epoch + math.ceil(per_epoch / 2)
    assert part.steps_of("dev/accuracy") == [per_epoch, part.result.steps], "the part is scored at its end"


def test_scalars_are_logged_at_every_so_many_steps_and_at_an_epochs_end(trained):
    run = trained("log_every=3")
    ends = run.steps_of("dev/accuracy")
    assert run.steps_of("train/loss") == sorted({*range(3, run.result.steps + 1, 3), *ends})
    assert trained().steps_of("train/loss") == ends, "an epoch has fewer than 20 steps"


def test_a_logged_loss_is_that_of_the_steps_since_the_one_before(trained):
    """A mean over three steps lies between the losses of those three, which fall from epoch to epoch."""
    single, mean = (trained("epochs=6", f"log_every={every}") for every in (1, 3))
    losses = dict(zip(single.steps_of("train/loss"), single.logged("train/loss"), strict=True))
    logged, begin = mean.steps_of("train/loss"), 0
    for step, value in zip(logged, mean.logged("train/loss"), strict=True):
        part = [losses[number] for number in range(begin + 1, step + 1)]
        assert value == pytest.approx(np.mean(part), rel=0.15), "batches differ in their rows by a few"
        since_start = np.mean([losses[number] for number in range(1, step + 1)])
        begin = step
    assert abs(value - np.mean(part)) < abs(value - since_start) / 3
    assert losses[max(losses)] < single.logged("dev/loss")[-1] < since_start, "rows that were trained on are known best"


def test_rows_are_assembled_by_several_threads_in_the_same_order(trained):
    assert trained("input_threads=3").apart(trained()) == 0


def test_a_head_starts_at_zero_at_a_fitted_probe_or_at_a_small_one(trained):
    first = {
        start: trained("log_every=1", f"head_start={start}").logged("train/loss")[0]
        for start in ("zero", "shrunk_probe", "probe")
    }
    assert first["zero"] == pytest.approx(math.log(3), rel=1e-5), "three classes, each as likely"
    assert first["probe"] < 0.7 * first["shrunk_probe"]
    assert first["shrunk_probe"] < 0.9 * first["zero"]


def test_rematerialisation_changes_no_result(trained):
    assert trained("remat=true").apart(trained()) < 1e-5


def test_a_precision_is_that_of_frozen_kernels_alone(trained):
    rough = trained("precision=bfloat16")
    assert {leaf.dtype for leaf in rough.leaves.values()} == {np.dtype("float32")}
    assert 1e-5 < rough.apart(trained()) < 0.1
    assert rough.result.metrics["test"]["accuracy"] > 0.8


@pytest.mark.parametrize("setting", ["adapter.dropout=0.5", "head.dropout=0.5"])
def test_dropout_acts_in_training_and_in_no_answer(setting, trained):
    run = trained(setting)
    assert run.apart(trained()) > 1e-3
    graft = topgraft.load(run.result.graft)
    texts = [text for text, _ in rows(80, seed=2)]
    answers = [graft.predict(texts) for _ in range(2)]
    assert answers[0] == answers[1]
    right = sum(answer.labels == (label,) for answer, (_, label) in zip(answers[0], rows(80, seed=2), strict=True))
    assert right / 80 == pytest.approx(run.result.metrics["test"]["accuracy"])


def test_patience_ends_a_run_that_no_longer_gains(trained):
    """A rate of nothing gains nothing after the first epoch."""
    still = ("optimizer.learning_rate=1e-30", "epochs=5")
    ends = trained(*still).steps_of("dev/accuracy")
    assert len(ends) == 5
    stopped = trained(*still, "patience=2")
    assert stopped.steps_of("dev/accuracy") == ends[:3], "the best, and two without a gain"
    assert stopped.result.steps == ends[2]


WILD = ("optimizer.learning_rate=0.3", "optimizer.schedule=constant", "epochs=6", "data.dev_fraction=0.3")


@pytest.mark.parametrize("metric", ["accuracy", "macro_f1"])
def test_the_best_evaluation_is_kept_or_the_last(metric, trained):
    """At a wild rate no epoch is like another, and the metric says which is the best."""
    best, last = (trained(*WILD, f"metric={metric}", f"select={select}") for select in ("best", "last"))
    history = best.logged(f"dev/{metric}")
    assert history == last.logged(f"dev/{metric}")
    assert max(history) > history[-1]
    assert best.result.metrics["dev"][metric] == pytest.approx(max(history), abs=1e-6)
    assert last.result.metrics["dev"][metric] == pytest.approx(history[-1], abs=1e-6)


def test_a_row_of_several_labels(tiny_path, tmp_path):
    script = write_config(tmp_path / "config.py", tiny_path, tmp_path)
    for name, count, seed in (("train", 200, 1), ("test", 60, 2)):
        left, right = rows(count, seed=seed), rows(count, seed=seed + 50)
        table = [
            (f"{' '.join(a.split()[:4])} {' '.join(b.split()[:4])}", "|".join(sorted({x, y})))
            for (a, x), (b, y) in zip(left, right, strict=True)
        ]
        write_csv(tmp_path / f"{name}.csv", table)
    settings = ("head.kind=multi_label", "metric=macro_f1", "epochs=6", "optimizer.learning_rate=0.02")
    result = train(load_config(script, settings), tmp_path / "run")
    assert result.metrics["test"]["micro_f1"] > 0.8
    answers = topgraft.load(result.graft).predict([text for text, _ in table])
    for count in (1, 2):
        chosen = [(set(a.labels), set(labels.split("|"))) for a, (_, labels) in zip(answers, table, strict=True)]
        right = [answer == labels for answer, labels in chosen if len(labels) == count]
        assert len(right) > 10
        assert np.mean(right) > 0.7, f"rows of {count} labels"


def test_every_limit_of_the_target_is_in_the_result(trained):
    """Those of the score, the training and the prediction, on this platform; a climb is not needed for it."""
    limits = ("min_score=0.01", "max_cpu_seconds=0.001", "max_memory_mb=100000", "max_latency_ms=60000")
    result = trained(*(f"target.{limit}" for limit in limits)).result
    met = {limit.name.removeprefix("target."): limit.met for limit in result.limits}
    assert met == {"min_score": True, "max_cpu_seconds": False, "max_memory_mb": True, "max_latency_ms": True}
    assert trained().result.limits == ()
