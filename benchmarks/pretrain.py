"""Masked language modelling here beside transformers' BertForMaskedLM; and what the result is worth.

    python -m benchmarks.pretrain --peers .venv-peers/bin/python --data ../shared/data
    python -m benchmarks.pretrain --data ../shared/data --probe runs/text_mlm

Throughput: the network and text of `configs/backbones/text_mlm.py`, 32 rows a step of which 15 % of the tokens are
predicted, a vocabulary of 8,000; both sides compute the logits of masked positions only, float32, AdamW, clipping, all
cores. The peer runs without dropout, as here, and with its own 0.1; sides alternate in `--segments` parts of `--steps`
steps.

Probe: a linear probe for TREC-6 on mean-pooled states, of all boundaries and of the last alone (which masked tokens
shape most), on the trained backbone and on the same architecture with random weights, as they are and with heads of
block 0 at neighbours (`first_weights=local`). Five seeds, each with its own random weights and its own 80 % of the
train rows, the same rows on all sides; each difference is reported with its 95 % interval (Student's t over the seeds).
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.peft_lora import Worker
from benchmarks.results import parsed, spread, write

SIDES = ("topgraft", "transformers", "transformers_dropout")
SEEDS, SHARE = 5, 0.8
ROWS, VOCABULARY = 32, 8000  # of a step; these stay when the config changes, so that figures can be compared
FRACTION = 0.15  # of a row's tokens is predicted (Devlin et al. 2018)


def prepare(folder: Path, steps: int) -> dict[str, Any]:
    """Writes recipe.json and ids.npy: the packed corpus of `text_mlm`, its rows in a fixed order."""
    from backbone.families.bert import Bert
    from backbone.records import encode
    from trainers.config.load import load_as
    from trainers.pretraining.config import BackboneConfig
    from trainers.pretraining.corpus import pack, read_text

    config = load_as(BackboneConfig, "text_mlm", (f"tokenizer.vocabulary={VOCABULARY}",))
    assert config.tokenizer is not None
    assert config.network is not None
    text = read_text(config.corpus)
    preprocessing = config.tokenizer.tokenizer(text.train, config.corpus.tokens)
    sequences = pack(text, preprocessing, config.corpus.tokens, needs_mask=True)
    spec = config.network.spec(preprocessing)
    rows = np.random.default_rng(0).permutation(len(sequences.train))
    count = steps * ROWS
    np.save(folder / "ids.npy", sequences.train[np.resize(rows, count)])
    bert = Bert().config(spec, masked=True)
    for name in ("architectures", "model_type", "hidden_dropout_prob", "attention_probs_dropout_prob"):
        bert.pop(name)
    recipe = {
        "spec": encode(spec),
        "bert": bert,
        "batch_size": ROWS,
        "fraction": FRACTION,
        "slots": max(1, round(FRACTION * config.corpus.tokens)),
        "mask_id": sequences.mask_id,
        "special": list(sequences.special),
        "learning_rate": config.optimizer.learning_rate,
        "weight_decay": config.optimizer.weight_decay,
        "clip_norm": config.optimizer.clip_norm,
        "steps": steps,
    }
    (folder / "recipe.json").write_text(json.dumps(recipe))
    (folder / "tokenizer.json").write_text(preprocessing.tokenizer_json, encoding="utf-8")
    return recipe


def throughput(options: argparse.Namespace) -> dict[str, Any]:
    """Raw runs of every side, and their ratios."""
    warm, total = 3, options.segments * options.steps + 3
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        recipe = prepare(Path(name), total)
        peer = [options.peers, "-m", "benchmarks.peers.mlm_recipe", "--folder", name]
        commands = {
            "topgraft": [sys.executable, "-m", "benchmarks.peers.ours_mlm", "--folder", name],
            "transformers": peer,
            "transformers_dropout": [*peer, "--dropout", "0.1"],
        }
        workers = {side: stack.enter_context(Worker(command)) for side, command in commands.items()}
        info = {side: worker.ask(cmd="info") for side, worker in workers.items()}
        for side in SIDES:
            workers[side].ask(cmd="train", batches=[0, warm])
        raw: dict[str, list[Any]] = {side: [] for side in SIDES}
        for part in range(options.segments):
            first = warm + part * options.steps
            for side in SIDES if part % 2 else SIDES[::-1]:
                raw[side].append(workers[side].ask(cmd="train", batches=[first, first + options.steps]))
            print(f"part {part + 1} of {options.segments}", file=sys.stderr, flush=True)
    rates = {side: [run["tokens"] / run["seconds"] for run in runs] for side, runs in raw.items()}
    per_cpu = {side: [run["tokens"] / run["cpu_seconds"] for run in runs] for side, runs in raw.items()}
    summary = {
        "tokens_per_second": {side: spread(values) for side, values in rates.items()},
        "tokens_per_cpu_second": {side: spread(values) for side, values in per_cpu.items()},
        "ratio": {
            side: spread([a / b for a, b in zip(rates["topgraft"], rates[side], strict=True)]) for side in SIDES[1:]
        },
    }
    return {"seed": 0, "recipe": recipe, "summary": summary, "info": info, "raw": raw}


def probe(folder: Path) -> dict[str, Any]:
    """Accuracies on the test rows of TREC-6 by seed, trained and random, and the interval of the difference."""
    import jax

    from adapters.model import GraftModel
    from adapters.specs import Classification, Probe
    from backbone.home import use_compilation_cache
    from backbone.network.local_start import start_locally
    from backbone.storage import load_backbone
    from trainers.config import TrainConfig
    from trainers.config.load import load_config
    from trainers.data.examples import load_data
    from trainers.fitting.linear_head import fit_linear, pooled_features

    use_compilation_cache()
    inside = folder / "backbone"
    trained = load_backbone(inside if inside.is_dir() else folder)
    config: TrainConfig = load_config("trec6")
    head = Classification(pooling="mean")
    data = load_data(config.data, head, trained)
    model = GraftModel(trained.network, (Probe(boundaries=()),), head, data.labels)
    adapter = model.init(jax.random.key(0))["adapter"]
    splits = [data.splits["train"], data.splits["test"]]

    def features(backbone: Any) -> list[np.ndarray]:
        return [pooled_features(model, backbone, adapter, rows, lambda count: None) for rows in splits]

    def accuracy(found: list[np.ndarray], rows: np.ndarray, columns: slice) -> float:
        train, test = (x[:, columns] for x in found)
        fitted = fit_linear(model, train[rows], splits[0].labels[rows], None, "accuracy").head
        logits = test @ fitted["kernel"] + fitted["bias"]
        decided = head.decide(np.asarray(head.probabilities(logits)))
        return float((decided == splits[1].labels).mean())

    known, raw = features(trained), []
    states = {"all": slice(None), "last": slice(-trained.spec.width, None)}
    for seed in range(SEEDS):
        draw = np.random.default_rng(seed)
        rows = np.sort(draw.permutation(len(splits[0]))[: int(SHARE * len(splits[0]))])
        weights = trained.network.init(seed)
        fresh = {"random": weights, "local": start_locally(trained.spec, weights)}
        sides = {name: features(replace(trained, params=own, weights_id=name)) for name, own in fresh.items()}
        sides = {"trained": known, **sides}
        for name, columns in states.items():
            scores = {side: accuracy(found, rows, columns) for side, found in sides.items()}
            raw.append({"seed": seed, "states": name, **scores})
            print(json.dumps(raw[-1]), file=sys.stderr, flush=True)
    summary = {
        name: {side: difference([s["trained"] - s[side] for s in raw if s["states"] == name]) for side in fresh}
        for name in states
    }
    return {"seed": list(range(SEEDS)), "weights_id": trained.weights_id, "summary": summary, "raw": raw}


def difference(found: list[float]) -> dict[str, Any]:
    """Mean of the differences over the seeds, with the 95 % interval of Student's t."""
    from scipy.stats import t

    mean = float(np.mean(found))
    half = float(t.ppf(0.975, len(found) - 1) * np.std(found, ddof=1) / np.sqrt(len(found)))
    return {"difference": mean, "interval_95": [mean - half, mean + half], "above": mean - half > 0}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", required=True, help="folder of the shared data sets")
    parser.add_argument("--peers", help="Python of the environment with torch and transformers")
    parser.add_argument("--probe", type=Path, help="run of train-backbone, or backbone folder, to probe instead")
    parser.add_argument("--segments", type=int, default=6, help="alternating parts")
    parser.add_argument("--steps", type=int, default=20, help="steps of each part")
    options, provenance = parsed(parser)
    if not options.probe and not options.peers:
        parser.error("one of --peers and --probe is needed")
    os.environ["TOPGRAFT_DATA"] = str(Path(options.data).resolve())
    result = probe(options.probe) if options.probe else throughput(options)
    print(json.dumps(result["summary"], indent=1))
    print(write("pretrain_probe" if options.probe else "pretrain", result, provenance))


if __name__ == "__main__":
    main()
