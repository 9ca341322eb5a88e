"""Folders made by PEFT over its options: for each, logits equal to PEFT's or refused by name, in both directions.

    .venv-peers/bin/python -m benchmarks.peft_folders

The folders are those of `benchmarks.peers.peft_folders`, on tiny random models. Each is imported. Its logits are
compared with those of PEFT, which loads the same folder. Where they are equal, the graft is exported again, and PEFT
loads that. A difference counts relative to the largest logit, if that is above 1.
"""

from __future__ import annotations

import argparse
import tempfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from adapters.export.peft import export_peft, import_peft
from adapters.graft import load_graft
from backbone.buckets import pad
from backbone.errors import InputError
from backbone.exchange.importing import import_backbone

TOLERANCE = 1e-4  # largest difference of a logit that counts as equal


@dataclass(frozen=True)
class Verdict:
    """What became of one folder."""

    case: str
    family: str
    model: str  # the model that PEFT wrapped
    options: Mapping[str, Any]  # fields of PEFT's config
    edit: Mapping[str, Any]  # fields changed after saving
    verdict: str  # equal, refused or wrong
    difference: float | None  # largest, relative to the largest logit, if that is above 1; None where refused
    moved: float | None  # how far the adapter moves a logit
    message: str  # of the refusal, without paths
    back: str  # the graft exported again: equal, refused or wrong; "" where the import was refused
    back_difference: float | None
    back_message: str


def run(name: str, folder: Path) -> Verdict:
    """Makes one folder and judges what Topgraft makes of it."""
    from benchmarks.peers.peft_folders import CASES, loaded, make

    case = CASES[name]
    source, expected, plain = make(name, folder)
    trunk = folder / "imported" / case.family
    if not trunk.exists():
        import_backbone(folder / "trunks" / case.family, trunk)
    graft = folder / name / "graft"
    fields = {"case": name, "family": case.family, "model": case.model, "options": case.options, "edit": case.edit}
    try:
        import_peft(source, trunk, graft, labels=case.labels)
    except InputError as error:
        message = str(error).replace(str(folder), "").replace(str(source.parent), "")
        return Verdict(**fields, verdict="refused", **dict.fromkeys(("difference", "moved", "back_difference")),
                       message=message, back="", back_message="")  # fmt: skip
    result = ours(graft, case.family, trunk)
    difference = None if expected is None else distance(result, expected, case.family)
    equal = difference is not None and difference < TOLERANCE
    moved = (
        None if expected is None else distance(expected, plain, case.family) if expected.shape == plain.shape else None
    )
    back, back_difference, back_message = "wrong", None, ""
    try:
        export_peft(graft, folder / name / "back", backbone=trunk)
        again = loaded(case, folder / name / "back", folder)
        back_difference = None if again is None else distance(result, again, case.family)
        back = "equal" if back_difference is not None and back_difference < TOLERANCE else "wrong"
    except InputError as error:
        back, back_message = "refused", str(error).replace(str(folder), "")
    return Verdict(
        **fields,
        verdict="equal" if equal else "wrong",
        difference=difference,
        moved=moved,
        message="",
        back=back,
        back_difference=back_difference,
        back_message=back_message,
    )


def ours(graft: Path, family: str, trunk: Path) -> np.ndarray:
    """Returns the graft's logits of the inputs of `benchmarks.peers.peft_folders.inputs`."""
    from benchmarks.peers.peft_folders import inputs

    loaded = load_graft(graft, trunk)
    given = {name: value.numpy() for name, value in inputs(family).items()}
    if "input_ids" in given:
        ids, mask = given["input_ids"].astype(np.int32), given["attention_mask"].astype(bool)
    else:
        ids, mask = pad(_pictures(loaded, family), loaded.backbone.preprocessing.max_tokens)
    return np.asarray(loaded.model.logits(loaded.backbone.params, loaded.params, {"ids": ids, "mask": mask}))


def _pictures(loaded: Any, family: str) -> list[np.ndarray]:
    from PIL import Image

    from tests.families import images
    from tests.tiny_images import encoded

    return list(loaded.backbone.preprocessing.encode([encoded(Image.fromarray(p)) for p in images(family, 4, seed=4)]))


def distance(left: np.ndarray, right: np.ndarray, family: str) -> float:
    """Returns the largest difference of logits at real tokens, relative to the largest one if that is above 1."""
    from benchmarks.peers.peft_folders import inputs

    if left.shape != right.shape:
        return float("inf")
    if left.ndim == 3:
        mask = inputs(family)["attention_mask"].numpy().astype(bool)
        left, right = left[mask], right[mask]
    return float(np.abs(left - right).max() / max(1.0, np.abs(right).max()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", help="names of cases (default: all)")
    from benchmarks.peers.peft_folders import CASES
    from benchmarks.results import parsed, write

    options, provenance = parsed(parser)

    with tempfile.TemporaryDirectory() as folder:
        verdicts = [run(name, Path(folder)) for name in options.only or CASES]
    for verdict in verdicts:
        difference = "" if verdict.difference is None else f" {verdict.difference:.1e}"
        print(f"{verdict.case:28} {verdict.verdict}{difference} {verdict.message}; back: {verdict.back}")
    counts = {"folders": len(verdicts), **Counter(v.verdict for v in verdicts)}
    back = Counter(v.back for v in verdicts if v.back)
    worst = max((v.difference for v in verdicts if v.verdict == "equal" and v.difference is not None), default=None)
    totals = {"counts": {"wrong": 0} | counts, "back": {"wrong": 0} | back, "largest_difference": worst}
    print(totals)
    if not options.only:
        write("peft_folders", totals | {"tolerance": TOLERANCE, "folders": [asdict(v) for v in verdicts]}, provenance)


if __name__ == "__main__":
    main()
