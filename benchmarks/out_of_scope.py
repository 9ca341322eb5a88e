"""Out-of-scope inputs of CLINC150: the graft's own score beside maximum softmax.

    python -m benchmarks.out_of_scope --data ../shared/data [--set adapter.method=probe]

Trains on the 150 intents, with a tenth of the rows held out to calibrate. In scope: the file's 4,500 test rows.
Out of scope: its 1,000 of `oos_test`, which nothing was fitted to. AUROC is that of telling the two apart; recall at
5 % false alarms is the share of out-of-scope rows found where a twentieth of the test rows is flagged. Beside them,
what the calibrated threshold does without seeing any test row.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import rankdata

from adapters.graft import load_graft
from benchmarks.results import parsed, write
from trainers.config.load import load_config
from trainers.train import train

RATE = 0.05
SETTINGS = ("data.dev_fraction=0.1", f"out_of_scope.false_alarms={RATE}")


def compared(inside: np.ndarray, outside: np.ndarray) -> dict[str, float]:
    """AUROC and recall of scores [N] and [M] that are higher out of scope; ties count half."""
    ranks = rankdata(np.concatenate([inside, outside]))[len(inside) :]
    count = len(outside)
    auroc = (ranks.sum() - count * (count + 1) / 2) / (count * len(inside))
    return {"auroc": float(auroc), "recall_at_5": float((outside > np.quantile(inside, 1 - RATE)).mean())}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", required=True, help="folder of the shared data sets")
    parser.add_argument("--set", action="append", default=[], metavar="A.B=C", help="override a config field")
    options, provenance = parsed(parser)
    os.environ["TOPGRAFT_DATA"] = str(Path(options.data).resolve())
    rows = json.loads((Path(options.data) / "clinc150" / "data_full.json").read_text(encoding="utf-8"))
    settings = (*SETTINGS, *options.set)
    with tempfile.TemporaryDirectory() as name:
        result = train(load_config("clinc150", settings), Path(name) / "run", show=True)
        graft = load_graft(result.graft)
        found: dict[str, dict[str, np.ndarray]] = {"scope": {}, "softmax": {}}
        for split in ("test", "oos_test"):
            logits, scores = graft.answers_of_rows(graft.encode([text for text, _ in rows[split]]))
            assert scores is not None
            found["scope"][split] = scores
            found["softmax"][split] = -graft.probabilities(logits).max(axis=1)
    table: dict[str, Any] = {kind: compared(each["test"], each["oos_test"]) for kind, each in found.items()}
    flagged = {split: float((scores > 1).mean()) for split, scores in found["scope"].items()}
    table["calibrated"] = {"false_alarms": flagged["test"], "recall": flagged["oos_test"], "asked": RATE}
    table["accuracy"] = result.metrics["test"]["accuracy"]
    print(json.dumps(table))
    result = {"settings": settings, "rows": {k: len(rows[k]) for k in found["scope"]}, **table}
    print(write("out_of_scope", result, provenance))


if __name__ == "__main__":
    main()
