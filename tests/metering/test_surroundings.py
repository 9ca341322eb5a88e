"""What surrounds a program: packages, threads, governors."""

from __future__ import annotations

import sys
from importlib.metadata import PathDistribution, version

import pytest

from metering.surroundings import governors, licence_of, packages, pool_threads, surroundings


@pytest.mark.parametrize(
    ("lines", "licence"),
    [
        ("License-Expression: MIT\nLicense: something else\n", "MIT"),
        ("Classifier: License :: OSI Approved :: BSD License\nClassifier: Topic :: Office\n", "BSD License"),
        ("License-Expression: MIT\nClassifier: License :: OSI Approved :: BSD License\n", "MIT"),
        ("License: Apache-2.0\n", "Apache-2.0"),
        ("License: " + 8 * "Permission is hereby granted " + "\n", ""),
        ("License: UNKNOWN\n", ""),
        ("", ""),
    ],
    ids=["expression", "classifier", "expression first", "field", "whole text", "unknown", "none"],
)
def test_the_licence_of_a_package(lines, licence, tmp_path):
    folder = tmp_path / "thing-1.0.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: thing\nVersion: 1.0\n{lines}\n")
    assert licence_of(PathDistribution(folder)) == licence


def test_the_installed_packages_are_those_that_are_imported(tmp_path, monkeypatch):
    known = {package.name: package for package in packages()}
    assert known["numpy"].version == version("numpy")
    assert known["jax"].licence == "Apache-2.0"
    (tmp_path / "numpy-0.0.1.dist-info").mkdir()
    (tmp_path / "numpy-0.0.1.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: numpy\nVersion: 0.0.1\n")
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    assert {package.name: package for package in packages()}["numpy"].version == "0.0.1"


def test_governors_are_named_once(tmp_path):
    for number, name in enumerate(("powersave", "performance", "powersave")):
        folder = tmp_path / f"cpu{number}" / "cpufreq"
        folder.mkdir(parents=True)
        (folder / "scaling_governor").write_text(f"{name}\n")
    assert governors(tmp_path) == ("performance", "powersave")
    assert governors(tmp_path / "none") == ()


def test_threads_are_counted_by_their_names(tmp_path):
    for number, name in enumerate(("python", "tf_XLAEigen/12", "tf_XLAEigen/12", "other")):
        (tmp_path / str(number)).mkdir()
        (tmp_path / str(number) / "comm").write_text(f"{name}\n")
    assert pool_threads(tmp_path) == 2
    assert pool_threads(tmp_path / "none") is None


def test_variables_that_set_threads_are_listed():
    assert surroundings({"OMP_NUM_THREADS": "3", "HOME": "/"}).threads == {
        "OMP_NUM_THREADS": "3",
        "OPENBLAS_NUM_THREADS": "1",
    }, "one thread where nobody chose, as the console command has it"
    assert surroundings({"OPENBLAS_NUM_THREADS": "4"}).threads == {"OPENBLAS_NUM_THREADS": "4"}
