"""The front door: `topgraft.load(...)` in Python, and the console command `topgraft VERB`.

    import topgraft
    graft = topgraft.load("runs/banking77/graft")
    graft.predict(["I am still waiting on my card?"])[0].label

The command parses a verb and calls one function below. Logs and progress go to stderr; with
`--json` the last line of stdout is one JSON object. Exit status: 0 done, 2 bad input or config,
75 somebody else was faster (`registry`), 1 anything else.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from backbone.errors import InputError
from backbone.options import Parser, number, whole
from backbone.ownership import require_own
from registry.commands import add_actions
from registry.entries import RegistryError

if TYPE_CHECKING:
    from adapters.graft import Graft
    from backbone.storage import Backbone

__all__ = ["InputError", "load", "main"]

log = logging.getLogger("topgraft")

# options of `serve` that are fields of serving.server.serve.Settings, with the type of their value
SERVE_FIELDS: dict[str, tuple[Callable[[str], Any], str]] = {
    "registry": (str, "URL of the registry to follow"),
    "store": (str, "folder of the registry's artefacts"),
    "grafts": (str, "follow a folder of grafts instead of a registry"),
    "backbone": (str, "backbone folder, or minilm"),
    "host": (str, "address to listen on (default 127.0.0.1)"),
    "port": (whole(0, 65535), "port (default 8080; 0: any)"),
    "admin_port": (whole(0, 65535), "port of the admin routes (default: none)"),
    "envelope": (str, "JSON file of what may be served (default: around what is live)"),
    "slots": (whole(1), "grafts in memory of each kind (default 32)"),
    "labels": (whole(1), "labels of the widest head (default 128)"),
    "buckets": (str, "lengths in tokens, commas between"),
    "batch_sizes": (str, "rows of a batch, commas between (default 1,8,32)"),
    "max_wait_ms": (number(least=0), "that a row waits for others (default 2)"),
    "max_waiting": (whole(1), "rows that may wait before 429 (default 1024)"),
    "host_mb": (whole(1), "verified grafts kept beside the slots (default 256)"),
    "cache_mb": (whole(0), "prefix states kept by input (default 0)"),
    "poll_seconds": (number(above=0), "between looks at what is live (default 2)"),
    "token_file": (str, "bearer tokens, one a line"),
    "submodels": (str, "that may answer, from the best to the cheapest, commas between (default full)"),
    "p95": (float, "seconds of a response beyond which a cheaper submodel answers"),
    "max_queued": (int, "rows in the queue beyond which a cheaper submodel answers"),
    "max_watts": (float, "beyond which a cheaper submodel answers, where power can be read"),
    "max_celsius": (float, "beyond which a cheaper submodel answers, where a temperature can be read"),
    "dwell": (float, "seconds between two switches of the submodel, at least (default 30)"),
    "dtype": (str, "float32 or bfloat16, of the backbone"),
}


def load(path: str | Path, backbone: str | Path | Backbone | None = None, *, dtype: str = "float32") -> Graft:
    """Loads and verifies a graft: `.predict(texts)` gives labels and probabilities, `.logits(texts)` scores.

    `backbone` is a folder or a loaded backbone to share; by default the one used in training, or one in
    `TOPGRAFT_HOME` with the same `weights_id`. Raises InputError (a ValueError) for anything damaged or
    mismatched.
    """
    require_own("adapters")
    from adapters.graft import load_graft

    return load_graft(path, backbone, dtype=dtype)


def _import_backbone(options: argparse.Namespace) -> Any:
    from backbone.importing import import_backbone

    return import_backbone(options.source, options.out, replace=options.replace)


def _train_backbone(options: argparse.Namespace) -> Any:
    from trainers.config.load import load_as
    from trainers.pretraining.config import BackboneConfig
    from trainers.train_backbone import train_backbone

    config = load_as(BackboneConfig, options.config, options.set)
    workdir = Path(options.workdir) if options.workdir else Path("runs") / config.name
    return train_backbone(config, workdir, resume=options.resume, show=not options.quiet)


def _export_backbone(options: argparse.Namespace) -> Any:
    from backbone.exporting import export_hf

    return export_hf(options.backbone, options.out)


def _train(options: argparse.Namespace) -> Any:
    from trainers.config.load import load_config
    from trainers.train import train

    config = load_config(options.config, options.set)
    workdir = Path(options.workdir) if options.workdir else Path("runs") / config.name
    return train(config, workdir, resume=options.resume, show=not options.quiet)


def _plan(options: argparse.Namespace) -> Any:
    from trainers.config.load import load_config
    from trainers.plan import plan, table

    config = load_config(options.config, options.set)
    result = plan(config, Path(options.workdir) if options.workdir else None, show=not options.quiet)
    return result if options.json else table(result)


def _retrain(options: argparse.Namespace) -> Any:
    from trainers.retrain.fleet import Job, attempt, retrain_all
    from trainers.retrain.outcome import Options

    choices = Options(
        dry_run=options.dry_run,
        max_price=options.max_price,
        promote=not options.no_promote,
        lease_seconds=options.lease,
        wait_seconds=options.wait,
        show=not options.quiet,
    )
    jobs = [Job(c, tuple(options.set), options.registry, options.store, choices) for c in options.config]
    if options.all:
        return retrain_all(jobs, executor=options.executor, workers=options.workers)
    if len(jobs) > 1:
        raise InputError("config: several configs need --all, which gives one entry a task and the worst status")
    outcome = attempt(jobs[0])
    if outcome.action == "error":
        print(f"topgraft retrain: {outcome.reason}", file=sys.stderr)
    return outcome


def _cache(options: argparse.Namespace) -> Any:
    from trainers.cache import caches

    return caches(options.action, max_gib=options.max_gib)


def _audit_labels(options: argparse.Namespace) -> Any:
    from trainers.audit_labels import audit_labels
    from trainers.config.load import load_config

    return audit_labels(
        load_config(options.config, options.set), max_suspects=options.max_suspects, show=not options.quiet
    )


def _profile(options: argparse.Namespace) -> Any:
    from serving.profile import profile

    found = profile(options.graft, backbone=options.backbone, dtype=options.dtype, plot=options.plot)
    return found if options.json else found.table()


def _evaluate(options: argparse.Namespace) -> Any:
    from trainers.evaluate import evaluate

    return evaluate(
        options.graft,
        backbone=options.backbone,
        overrides=tuple(options.set),
        files=tuple(options.file),
        dtype=options.dtype,
        submodel=options.submodel,
        show=not options.quiet,
    )


def _predict(options: argparse.Namespace) -> Any:
    from serving.predict import predict

    return predict(
        options.graft,
        options.text,
        pairs=options.text_pair,
        file=options.file,
        backbone=options.backbone,
        dtype=options.dtype,
        top=options.top,
    )


def _serve(options: argparse.Namespace) -> Any:
    from serving.server.serve import Settings, numbers, serve

    fields = {name: getattr(options, name) for name in SERVE_FIELDS if getattr(options, name) is not None}
    for name in ("buckets", "batch_sizes"):
        if name in fields:
            fields[name] = numbers(fields[name], f"--{name.replace('_', '-')}")
    if "submodels" in fields:
        fields["submodels"] = tuple(name.strip() for name in fields["submodels"].split(","))
    return serve(Settings(**fields))


def _inspect(options: argparse.Namespace) -> Any:
    from trainers.inspect import inspect

    return inspect(options.path, tuple(options.set), options.backbone)


def _export(options: argparse.Namespace) -> Any:
    if options.format == "jax":
        from adapters.export.compiled import export_jax

        buckets = _numbers(options.buckets, "--buckets") if options.buckets else ()
        return export_jax(options.graft, options.out, backbone=options.backbone, buckets=buckets, batch=options.batch)
    if options.buckets or options.batch != 8:
        raise InputError("--buckets: this and --batch belong to --format jax")
    from adapters.export.peft import export_peft

    return export_peft(options.graft, options.out, backbone=options.backbone)


def _numbers(text: str, option: str) -> tuple[int, ...]:
    try:
        return tuple(int(number) for number in text.split(","))
    except ValueError:
        raise InputError(f"{option}: {text!r} is not a list of numbers such as 16,32") from None


def _import_graft(options: argparse.Namespace) -> Any:
    from adapters.export.peft import import_peft

    return import_peft(options.source, options.backbone, options.out, labels=options.labels)


def _combine(options: argparse.Namespace) -> Any:
    from adapters.mixing import combine

    try:
        weights = [float(weight) for weight in options.weights.split(",") if weight]
    except ValueError:
        raise InputError(f"--weights: {options.weights!r} is not a list of numbers such as 0.5,0.5") from None
    return combine(
        options.graft,
        options.out,
        how=options.how,
        weights=weights,
        rank=options.rank,
        density=options.density,
        head_from=options.head_from,
        backbone=options.backbone,
    )


class _Shared:
    """Options that several verbs have."""

    def __init__(self) -> None:
        self.on_backbone = Parser(add_help=False)
        self.on_backbone.add_argument("--backbone", help="backbone folder (default: the one used in training)")
        self.settings = Parser(add_help=False)
        self.settings.add_argument(
            "--set", action="append", default=[], metavar="A.B=C", help="override a config field"
        )
        self.running = Parser(add_help=False)
        self.running.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32", help="of the backbone")


AddVerb = Callable[..., argparse.ArgumentParser]  # (name, call, help, *parents)


def _training_verbs(verb: AddVerb, shared: _Shared) -> None:
    """How backbones and grafts come to be."""
    sub = verb("import-backbone", _import_backbone, "import pretrained weights into a backbone folder")
    sub.add_argument("source", help="folder in the Hugging Face layout, hf:org/name[@revision], or minilm")
    sub.add_argument("--out", required=True, help="the new backbone folder")
    sub.add_argument("--replace", action="store_true", help="replace an existing folder")
    sub = verb("train-backbone", _train_backbone, "train a backbone from text or labelled images", shared.settings)
    sub.add_argument("config", help="config script, or the name of one that comes with topgraft")
    sub.add_argument("--workdir", help="folder of the run (default: runs/NAME)")
    sub.add_argument("--resume", action="store_true", help="go on with an interrupted run")
    sub = verb("export-backbone", _export_backbone, "write a backbone for other software")
    sub.add_argument("backbone", help="backbone folder, or folder of a run of train-backbone")
    sub.add_argument("--format", choices=("hf",), required=True, help="hf: Hugging Face transformers")
    sub.add_argument("--out", required=True, help="the new folder")
    sub = verb("train", _train, "train a graft from a config script", shared.settings)
    sub.add_argument("config", help="config script, or the name of one that comes with topgraft")
    sub.add_argument("--workdir", help="folder of the run (default: runs/NAME)")
    sub.add_argument("--resume", action="store_true", help="go on with an interrupted run")
    sub = verb("plan", _plan, "price a run before anything is trained", shared.settings)
    sub.add_argument("config", help="config script, or the name of one that comes with topgraft")
    sub.add_argument("--workdir", help="keep the prediction there, for the run's report")
    sub = verb("retrain", _retrain, "train what changed, and promote it if it passes the gate", shared.settings)
    sub.add_argument("config", nargs="+", help="config script, or the name of one that comes with topgraft")
    sub.add_argument("--registry", default="", help="URL (default: sqlite, in TOPGRAFT_HOME/registry.db)")
    sub.add_argument("--store", default="", help="folder of the artefacts (default: TOPGRAFT_HOME/store)")
    sub.add_argument("--all", action="store_true", help="several configs; the status is the worst of theirs")
    sub.add_argument("--dry-run", action="store_true", help="say what would be done and what it would cost")
    sub.add_argument(
        "--max-price", type=number(least=0), metavar="CPU_SECONDS", help="refuse what is predicted to cost more"
    )
    sub.add_argument("--no-promote", action="store_true", help="leave the live version as it is")
    sub.add_argument("--executor", choices=("processes", "ray"), default="processes", help="of --all")
    sub.add_argument("--workers", type=whole(1), default=1, help="tasks at a time, with --all")
    sub.add_argument(
        "--lease", type=number(above=0), default=120.0, help="seconds until a run that died may be taken over"
    )
    sub.add_argument("--wait", type=number(least=0), default=0.0, help="seconds to wait for the lease of another run")


def _using_verbs(verb: AddVerb, shared: _Shared) -> None:
    """What is done with them."""
    sub = verb("cache", _cache, "list, verify or shrink the boundary caches")
    sub.add_argument("action", choices=("stat", "verify", "gc"))
    sub.add_argument("--max-gib", type=number(least=0), help="gc: remove the oldest segments down to this size")
    sub = verb("audit-labels", _audit_labels, "rows whose label is probably wrong, and duplicates", shared.settings)
    sub.add_argument("config", help="config script, or the name of one that comes with topgraft")
    sub.add_argument("--max-suspects", type=whole(0), default=0, help="suspects to list (default: all)")
    sub = verb(
        "profile",
        _profile,
        "what one prediction costs, against this machine's roofline",
        shared.on_backbone,
        shared.running,
    )
    sub.add_argument("graft", help="graft folder")
    sub.add_argument("--plot", help="write the roofline plot to this SVG file")
    sub = verb(
        "evaluate", _evaluate, "score a graft on labelled rows", shared.settings, shared.on_backbone, shared.running
    )
    sub.add_argument("graft", help="graft folder")
    sub.add_argument("--file", action="append", default=[], help="labelled file (default: the config's splits)")
    sub.add_argument("--submodel", choices=("full", "exits"), default="full", help="the part of the graft that answers")
    sub = verb("predict", _predict, "answer for texts or images", shared.on_backbone, shared.running)
    sub.add_argument("graft", help="graft folder")
    sub.add_argument("--text", action="append", default=[], help="a text; may be repeated")
    sub.add_argument("--text-pair", action="append", default=[], help="the second text of the --text at its place")
    text = "a text a line (a pair: a tab between), - is standard input; or an image; may be repeated"
    sub.add_argument("--file", action="append", default=[], help=text)
    sub.add_argument("--top", type=whole(1), default=5, help="probabilities shown for each text")
    sub = verb("serve", _serve, "answer over HTTP, following a registry")
    for name, (kind, text) in SERVE_FIELDS.items():
        sub.add_argument(f"--{name.replace('_', '-')}", type=kind, help=text, required=name == "backbone")
    sub = verb("inspect", _inspect, "describe a graft, a backbone or a config", shared.settings, shared.on_backbone)
    sub.add_argument("path", help="graft, run or backbone folder, or config script")


def _exchange_verbs(verb: AddVerb, shared: _Shared) -> None:
    """How grafts become others, here or elsewhere."""
    sub = verb("export", _export, "write a graft for other software", shared.on_backbone)
    sub.add_argument("graft", help="graft folder")
    text = "peft: Hugging Face PEFT; jax: a folder that answers without topgraft"
    sub.add_argument("--format", choices=("peft", "jax"), required=True, help=text)
    sub.add_argument("--buckets", default="", help="jax: lengths in tokens, commas between")
    sub.add_argument("--batch", type=whole(1), default=8, help="jax: rows of a call (default 8)")
    sub.add_argument("--out", required=True, help="the new folder")
    sub = verb("import-graft", _import_graft, "import a PEFT adapter folder as a graft")
    sub.add_argument("source", help="PEFT folder")
    sub.add_argument("--backbone", required=True, help="backbone folder it belongs to")
    sub.add_argument("--out", required=True, help="the new graft folder")
    sub.add_argument("--labels", help="label names, comma separated or a file with one a line")
    sub = verb("combine", _combine, "combine LoRA grafts of one backbone by fixed weights", shared.on_backbone)
    sub.add_argument("graft", nargs="+", help="graft folders, two or more")
    sub.add_argument("--how", choices=("linear", "cat", "svd", "ties"), default="cat", help="see adapters/mixing.py")
    sub.add_argument("--weights", default="", help="one a graft, comma separated (default: all 1/N)")
    sub.add_argument("--rank", type=whole(0), default=0, help="svd, ties: rank (default: the largest of the grafts)")
    sub.add_argument("--density", type=number(above=0, most=1), default=0.2, help="ties: share of entries kept")
    sub.add_argument("--head-from", help="the graft whose head and labels are kept (default: the first)")
    sub.add_argument("--out", required=True, help="the new graft folder")


def _parser() -> argparse.ArgumentParser:
    common = Parser(add_help=False)
    common.add_argument("--json", action="store_true", help="last line of stdout: one JSON object")
    common.add_argument("--quiet", action="store_true", help="no progress bars, warnings only")
    parser = Parser(prog="topgraft", description="Graft task adapters onto a frozen backbone.")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")

    def verb(name: str, call: Callable[[argparse.Namespace], Any], text: str, *parents: Any) -> argparse.ArgumentParser:
        sub = verbs.add_parser(name, help=text, description=text, parents=[common, *parents])
        sub.set_defaults(call=call)
        return sub

    shared = _Shared()
    _training_verbs(verb, shared)
    _using_verbs(verb, shared)
    _exchange_verbs(verb, shared)
    text = "versions of every task, which one is live, and how it came to be so"
    add_actions(verbs.add_parser("registry", help=text, description=text), common)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """The console command; returns the exit status."""
    words = sys.argv[1:] if arguments is None else arguments
    try:
        options = _parser().parse_args(words)
    except InputError as error:
        print(error, file=sys.stderr)
        if "--json" in words:
            print(json.dumps({"error": str(error), "exit": 2}))
        return 2
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr, format="%(asctime)s %(levelname)s %(message)s")
    for name in ("topgraft", "backbone", "adapters", "trainers", "registry", "serving"):
        logging.getLogger(name).setLevel(logging.WARNING if options.quiet else logging.INFO)
    try:
        require_own("adapters")
        result = options.call(options)
    except InputError as error:
        print(f"topgraft {options.verb}: {error}", file=sys.stderr)
        if options.json:
            print(json.dumps({"error": str(error), "exit": 2}))
        return 2
    except RegistryError as error:
        print(f"topgraft {options.verb}: {error}", file=sys.stderr)
        if options.json:
            print(json.dumps({"error": str(error), "exit": error.exit_status}))
        return error.exit_status
    except OSError as error:  # a full disk, a folder that may not be written; the message names the file
        log.debug("%s", options.verb, exc_info=True)
        print(f"topgraft {options.verb}: {error}", file=sys.stderr)
        if options.json:
            print(json.dumps({"error": str(error), "exit": 1}))
        return 1
    values = asdict(result) if is_dataclass(result) and not isinstance(result, type) else result
    if options.json:
        print(json.dumps(values, ensure_ascii=False))
    elif isinstance(values, str):
        print(values)
    else:
        _show(values)
    return int(getattr(result, "exit_status", 0))


def run() -> None:
    """Entry point of the console script."""
    sys.exit(main())


def _show(values: Any, indent: str = "") -> None:
    """A result for people: nested names and values."""
    for key, value in values.items() if isinstance(values, dict) else enumerate(values):
        if isinstance(value, dict) and value:
            print(f"{indent}{key}:")
            _show(value, indent + "  ")
        elif isinstance(value, list) and value and isinstance(value[0], dict):
            for item in value:
                _show(item, indent)
                print()
        elif isinstance(value, list) and len(value) > 10 and isinstance(value[0], list):
            print(f"{indent}{key}: {len(value)} x {len(value[0])} numbers, see --json")
        else:
            text = f"{value:.4f}" if isinstance(value, float) else value
            print(f"{indent}{key}: {', '.join(map(str, text)) if isinstance(text, (list, tuple)) else text}")


if __name__ == "__main__":
    run()
