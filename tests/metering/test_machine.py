"""A machine is told by its processor, instruction sets, cores and quota."""

from __future__ import annotations

import os

import pytest

from metering.cgroups import cpu_quota, throttled_seconds
from metering.machine import machine, usable_cores

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


@pytest.mark.parametrize(
    ("membership", "files", "quota"),
    [
        (
            "0::/a/b\n",
            {"cpu.max": "max 100000\n", "a/cpu.max": "50000 100000\n", "a/b/cpu.max": "200000 100000\n"},
            0.5,
        ),
        ("0::/a/b\n", {"a/cpu.max": "max 100000\n", "c/cpu.max": "50000 100000\n"}, None),
        (
            "5:memory:/m\n4:cpu,cpuacct:/a\n",
            {"cpu,cpuacct/a/cpu.cfs_quota_us": "150000\n", "cpu,cpuacct/a/cpu.cfs_period_us": "100000\n"},
            1.5,
        ),
        ("0::/a\n", {"unified/a/cpu.max": "75000 100000\n"}, 0.75),
        (
            "4:cpu,cpuacct:/a\n",
            {"cpu/a/cpu.cfs_quota_us": "175000\n", "cpu/a/cpu.cfs_period_us": "100000\n"},
            1.75,
        ),
        ("0::/../other\n", {"cpu.max": "25000 100000\n"}, 0.25),
        ("no line of a group\n", {"cpu.max": "25000 100000\n"}, 0.25),
    ],
    ids=[
        "an outer group is narrower",
        "another group",
        "version 1",
        "both versions",
        "a mount of one name",
        "outside the namespace",
        "unreadable",
    ],
)
def test_the_narrowest_group_on_the_way_to_the_root_holds(membership, files, quota, tmp_path):
    for name, text in files.items():
        (tmp_path / "root" / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / "root" / name).write_text(text)
    (tmp_path / "membership").write_text(membership)
    assert cpu_quota(tmp_path / "root", tmp_path / "membership") == quota


@pytest.mark.parametrize(
    ("files", "seconds"),
    [
        ({"cpu.max": "50000 100000\n", "cpu.stat": "nr_throttled 3\nthrottled_usec 2500000\n"}, 2.5),
        (
            {
                "cpu/cpu.cfs_quota_us": "50000\n",
                "cpu/cpu.cfs_period_us": "100000\n",
                "cpu/cpu.stat": "throttled_time 1500000000\n",
            },
            1.5,
        ),
        (
            {
                "cpu.max": "50000 100000\n",
                "cpu.stat": "throttled_usec 2500000\n",
                "unified/cpu.max": "50000 100000\n",
                "unified/cpu.stat": "throttled_usec 7500000\n",
            },
            7.5,
        ),
        ({"cpu.max": "max 100000\n", "cpu.stat": "throttled_usec 0\n"}, None),
        ({}, None),
    ],
    ids=["version 2", "version 1", "the longest of two", "no quota", "none"],
)
def test_the_time_for_which_a_group_holds_back(files, seconds, tmp_path):
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert throttled_seconds(tmp_path, tmp_path / "membership") == seconds


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no affinity on this system")
def test_cores_are_those_that_the_process_may_use():
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(before)})
        assert usable_cores() == 1
    finally:
        os.sched_setaffinity(0, before)
    assert usable_cores() == len(before)
