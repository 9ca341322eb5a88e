"""A machine is told by its processor, instruction sets, cores and quota."""

from __future__ import annotations

import os

import pytest

from metering.machine import cpu_quota, machine, usable_cores

CPUINFO = """processor\t: 0
model name\t: Example 9
flags\t\t: fpu fma avx2 avx512_bf16 sse4_2 ht

processor\t: 1
model name\t: Another
flags\t\t: fpu
"""


def test_the_first_processor_is_described(tmp_path):
    (tmp_path / "cpuinfo").write_text(CPUINFO)
    described = machine(tmp_path / "cpuinfo", tmp_path)
    assert described.processor == "Example 9"
    assert described.instruction_sets == ("avx2", "avx512_bf16", "fma", "sse4_2")
    assert described.quota is None


def test_arm_names_its_instructions_otherwise(tmp_path):
    (tmp_path / "cpuinfo").write_text("processor\t: 0\nFeatures\t: fp asimd asimddp i8mm bf16 sve\n")
    described = machine(tmp_path / "cpuinfo", tmp_path)
    assert described.instruction_sets == ("asimd", "asimddp", "bf16", "i8mm", "sve")
    assert described.processor


@pytest.mark.parametrize(
    ("files", "quota"),
    [
        ({"cpu.max": "150000 100000\n"}, 1.5),
        ({"cpu.max": "max 100000\n"}, None),
        ({"cpu/cpu.cfs_quota_us": "50000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 0.5),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, None),
        ({}, None),
    ],
    ids=["version 2", "version 2, no limit", "version 1", "version 1, no limit", "none"],
)
def test_the_quota_of_a_control_group(files, quota, tmp_path):
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert cpu_quota(tmp_path) == quota


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no affinity on this system")
def test_cores_are_those_that_the_process_may_use():
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(before)})
        assert usable_cores() == 1
    finally:
        os.sched_setaffinity(0, before)
    assert usable_cores() == len(before)
