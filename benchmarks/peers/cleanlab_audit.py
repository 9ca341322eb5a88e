"""Rows whose label cleanlab doubts, from scikit-learn's out-of-fold probabilities on PyTorch's states.

    python -m benchmarks.peers.cleanlab_audit --model DIR train.csv

The file has the columns text and label. The states are mean-pooled, at unit length; the probabilities are those of
logistic regression in five folds. Prints the numbers of the rows, the most suspect first.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import transformers
from cleanlab.filter import find_label_issues
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import Normalizer
from tokenizers import Tokenizer

from benchmarks.peers.features_recipe import features, read


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", required=True)
    parser.add_argument("rows")
    options = parser.parse_args()
    rows = read(Path(options.rows))
    names = sorted({label for _, label in rows})
    labels = np.array([names.index(label) for _, label in rows])
    tokenizer = Tokenizer.from_file(str(Path(options.model) / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(128)
    model = transformers.AutoModel.from_pretrained(options.model).eval()
    x = features(model, tokenizer, [text for text, _ in rows])
    head = make_pipeline(Normalizer(), LogisticRegression(C=10.0, max_iter=1000))
    probabilities = cross_val_predict(head, x, labels, cv=5, method="predict_proba")
    suspects = find_label_issues(labels, probabilities, return_indices_ranked_by="self_confidence")
    print(json.dumps({"suspects": [int(i) for i in suspects]}))


if __name__ == "__main__":
    main()
