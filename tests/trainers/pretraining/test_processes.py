"""Two processes train one backbone over gloo: the losses of one, a kill, a signal, and inputs that differ."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import yaml

import topgraft
from backbone.console.options import filled
from backbone.meshes.mesh import Mesh
from backbone.meshes.processes import Addresses, addresses, names_several
from tests.tiny import as_json
from tests.trainers.pretraining.backbone_runs import ROOT, call, paragraphs, settings
from trainers.pretraining.config import BackboneConfig

SIZES = settings(
    "corpus.tokens=32", "corpus.held_out_fraction=0.1", "tokenizer.vocabulary=300", "network.blocks=1",
    "network.width=32", "network.mlp_width=64", "steps=60", "batch_size=8", "evaluate_every=20", "log_every=5",
)  # fmt: skip
MINUTE = 60.0  # seconds within which all processes of a run end once one is lost
PATIENCE = 300.0  # seconds


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("texts") / "corpus.txt"
    path.write_text("\n\n".join(paragraphs(400)), encoding="utf-8")
    return path


def words(corpus: Path, run: Path, *more: str) -> list[str]:
    files = settings(f"corpus.files={corpus}")
    return ["train-backbone", "text_mlm", "--workdir", str(run), "--json", *files, *SIZES, *settings(*more)]


def started(arguments: list[list[str]]) -> list[subprocess.Popen[str]]:
    """Processes of one run, each with its arguments."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    names = {"PYTHONPATH": str(ROOT), "JAX_COORDINATOR_ADDRESS": address, "JAX_NUM_PROCESSES": str(len(arguments))}
    return [
        subprocess.Popen(
            [sys.executable, "-m", "topgraft", *line],
            env=os.environ | names | {"JAX_PROCESS_ID": str(number)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number, line in enumerate(arguments)
    ]


def ended(processes: list[subprocess.Popen[str]], seconds: float = PATIENCE) -> list[tuple[int, str, str]]:
    """Status, output and log of each process."""
    deadline, results = time.monotonic() + seconds, []
    try:
        for process in processes:
            out, err = process.communicate(timeout=max(1.0, deadline - time.monotonic()))
            results.append((process.returncode, out, err))
    finally:
        for process in processes:
            process.kill()
    return results


def await_checkpoint(run: Path, processes: list[subprocess.Popen[str]]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not any(path.name.isdigit() for path in (run / "checkpoints").glob("*")):
        assert all(process.poll() is None for process in processes), ended(processes)
        assert time.monotonic() < deadline
        time.sleep(0.01)


def losses(run: Path) -> list[float]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [line[name] for line in lines for name in ("train/loss", "held_out/loss") if name in line]


@pytest.fixture(scope="module")
def whole(corpus, tmp_path_factory) -> Path:
    """A run of two processes that nothing interrupted."""
    run = tmp_path_factory.mktemp("whole") / "run"
    results = ended(started([words(corpus, run, "mesh.data=auto")] * 2))
    assert [status for status, _, _ in results] == [0, 0], results
    ids = {as_json(out)["weights_id"] for _, out, _ in results}
    assert len(ids) == 1
    return run


def test_two_processes_give_the_losses_of_one(corpus, whole, tmp_path, capsys):
    status, _, err = call(*words(corpus, tmp_path / "one"), capsys=capsys)
    assert status == 0, err
    np.testing.assert_allclose(losses(whole), losses(tmp_path / "one"), rtol=2e-5)
    assert len(losses(whole)) == 12 + 3


def test_two_processes_share_a_stream(corpus, tmp_path, capsys):
    sizes = ("stream=true", "max_held_out=20", "steps=10", "evaluate_every=10")
    results = ended(started([words(corpus, tmp_path / "two", "mesh.data=auto", *sizes)] * 2))
    assert [status for status, _, _ in results] == [0, 0], results
    status, _, err = call(*words(corpus, tmp_path / "one", *sizes), capsys=capsys)
    assert status == 0, err
    np.testing.assert_allclose(losses(tmp_path / "two"), losses(tmp_path / "one"), rtol=2e-5)
    assert len(losses(tmp_path / "two")) == 2 + 1


def test_a_process_that_is_killed_ends_the_other_and_both_go_on_to_the_same_bits(corpus, whole, tmp_path):
    run, often = tmp_path / "run", "checkpoint_seconds=0.0001"
    processes = started([words(corpus, run, "mesh.data=auto", often)] * 2)
    await_checkpoint(run, processes)
    processes[1].send_signal(signal.SIGKILL)
    before = time.monotonic()
    (status, _, err), (killed, _, _) = ended(processes)
    assert time.monotonic() - before < MINUTE
    assert killed == -signal.SIGKILL
    assert status not in (0, 2), err
    assert "another process of this run has ended" in err or "another task died" in err, err

    results = ended(started([[*words(corpus, run, "mesh.data=auto"), "--resume"]] * 2))
    assert [status for status, _, _ in results] == [0, 0], results
    resumed = as_json(results[0][1])
    assert resumed["resumed"]
    assert resumed["weights_id"] == json.loads((whole / "result.json").read_text())["weights_id"]


def test_a_signal_to_one_saves_all_and_one_process_goes_on(corpus, whole, tmp_path, capsys):
    run = tmp_path / "run"
    processes = started([words(corpus, run, "mesh.data=auto", "checkpoint_seconds=0.0001")] * 2)
    await_checkpoint(run, processes)
    processes[1].send_signal(signal.SIGTERM)
    results = ended(processes)
    assert [status for status, _, _ in results] == [143, 143], results
    assert all("--resume goes on" in err for _, _, err in results)

    status, out, err = call(*words(corpus, run, "mesh.data=1"), "--resume", capsys=capsys)
    assert status == 0, err
    result, reference = as_json(out), json.loads((whole / "result.json").read_text())
    assert result["resumed"]
    assert result["finished"]
    assert result["held_out_loss"] == pytest.approx(reference["held_out_loss"], rel=2e-5)
    np.testing.assert_allclose(losses(run), losses(whole), rtol=2e-5)


def test_configs_that_differ_are_one_error_everywhere(corpus, tmp_path):
    lines = [words(corpus, tmp_path / "run", "mesh.data=auto", f"seed={seed}") for seed in (0, 1)]
    results = ended(started(lines))
    assert [status for status, _, _ in results] == [2, 2], results
    assert all("the processes of this run differ in config" in err for _, _, err in results)


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, False),
        ({"JAX_NUM_PROCESSES": "1", "JAX_COORDINATOR_ADDRESS": "a:1"}, False),
        ({"JAX_NUM_PROCESSES": "2"}, True),
        ({"SLURM_STEP_NODELIST": "n[1-2]", "SLURM_STEP_NUM_TASKS": "2"}, True),
        ({"SLURM_STEP_NODELIST": "n1", "SLURM_STEP_NUM_TASKS": "1"}, False),
        ({"TPU_WORKER_HOSTNAMES": "a,b"}, True),
        ({"TPU_WORKER_HOSTNAMES": "WARNING: no hosts, set them"}, False),
    ],
)
def test_what_names_several_processes(environment, expected):
    assert names_several(environment) == expected


def test_addresses_of_the_environment():
    names = {"JAX_COORDINATOR_ADDRESS": "a:1", "JAX_NUM_PROCESSES": "2"}
    expected = Addresses("a:1", 2, 1)
    assert addresses(names | {"JAX_PROCESS_ID": "1"}) == expected
    assert addresses(names | {"JOB_COMPLETION_INDEX": "1"}) == expected
    assert addresses({"TPU_WORKER_HOSTNAMES": "a,b"}) == Addresses()
    for wrong in ({}, {"JAX_PROCESS_ID": "x"}, {"JAX_PROCESS_ID": "2"}):
        with pytest.raises(ValueError, match="JAX_PROCESS_ID"):
            addresses(names | wrong)


def test_the_job_of_the_documents_names_its_processes():
    job = yaml.safe_load((ROOT / "docs" / "deploy" / "training-job.yaml").read_text(encoding="utf-8"))["spec"]
    (container,) = job["template"]["spec"]["containers"]
    options = topgraft.parser().parse_args([str(word) for word in container["args"]])
    assert filled(options.verb, options).load(BackboneConfig).mesh == Mesh(data="auto")
    names = {entry["name"]: entry["value"] for entry in container["env"]}
    last = addresses(names | {"JOB_COMPLETION_INDEX": str(job["completions"] - 1)})
    assert (last.num_processes, last.process_id) == (job["parallelism"], job["completions"] - 1)
    assert last.coordinator_address is not None
    assert last.coordinator_address.split(".")[1].split(":")[0] == job["template"]["spec"]["subdomain"]
