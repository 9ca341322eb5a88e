"""The options of every verb come from the fields of its dataclass; nonsense and former names end with status 2."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import adapters.commands
import backbone.commands
import serving.commands
import topgraft
import trainers.commands
from backbone.console.options import KEY, Parser, add_fields, argument, check, filled, option, required
from backbone.console.verbs import Verb
from backbone.errors import InputError
from backbone.records import decode, encode, hints
from registry.commands import ACTIONS
from registry.place import Place
from tests.tiny import as_json
from trainers.config.load import load_as, load_config, override
from trainers.pretraining.config import BackboneConfig
from trainers.retrain.outcome import Job, Options

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = (backbone.commands, trainers.commands, serving.commands, adapters.commands)
VERBS = [verb for package in PACKAGES for verb in package.VERBS] + list(ACTIONS)
# words that each verb cannot do without, and the fields that they fill
NEEDED: dict[str, tuple[str, dict]] = {
    "import-backbone": ("minilm --out b", {"source": "minilm", "out": "b"}),
    "export-backbone": ("b --format hf --out o", {"backbone": "b", "format": "hf", "out": "o"}),
    "train-backbone": ("c", {"config": "c"}),
    "train": ("c", {"inputs": ("c",)}),
    "distil-static": ("b --out o", {"backbone": "b", "out": "o"}),
    "drop-blocks": ("b --blocks 1 --out o", {"backbone": "b", "blocks": 1, "out": "o"}),
    "parent": ("g --out o", {"graft": "g", "out": "o"}),
    "plan": ("c", {"config": "c"}),
    "retrain": ("c d", {"configs": ("c", "d")}),
    "evaluate": ("g", {"graft": "g"}),
    "inspect": ("p", {"path": "p"}),
    "search": ("c", {"config": "c"}),
    "search show": ("r", {"run": "r"}),
    "search decide": (
        "r --choose a --by b --why c",
        {"run": "r", "choose": "a", "by": "b", "why": "c"},
    ),
    "cache": ("stat", {"action": "stat"}),
    "check": ("f", {"inputs": ("f",)}),
    "curate": ("c --output f.jsonl", {"config": "c", "output": "f.jsonl"}),
    "prune": ("g --above 1 --flops 0.5 --out o", {"graft": "g", "above": 1, "flops": 0.5, "out": "o"}),
    "drop-tokens": (
        "g --rows r.csv --rows s.csv --at 1,2 --keep 64,48 --out o",
        {"graft": "g", "rows": ("r.csv", "s.csv"), "at": (1, 2), "keep": (64, 48), "out": "o"},
    ),
    "route": ("a b --out o", {"grafts": ("a", "b"), "out": "o"}),
    "machine": ("", {}),
    "precision": ("b", {"backbone": "b"}),
    "predict": ("g", {"graft": "g"}),
    "serve": ("--backbone b --grafts .", {"backbone": "b", "grafts": "."}),
    "profile": ("g", {"graft": "g"}),
    "export": ("g --format peft --out o", {"graft": "g", "format": "peft", "out": "o"}),
    "sign": ("g --key k.pem", {"folder": "g", "key": "k.pem"}),
    "verify": ("g", {"folder": "g"}),
    "upload": ("g s3://b/g", {"folder": "g", "address": "s3://b/g"}),
    "import-graft": ("s --backbone b --out o", {"source": "s", "backbone": "b", "out": "o"}),
    "combine": ("a b --out o", {"grafts": ("a", "b"), "out": "o"}),
    "registry publish": ("g", {"graft": "g"}),
    "registry list": ("", {}),
    "registry show": ("t", {"task": "t"}),
    "registry diff": ("t 1", {"task": "t", "version": 1}),
    "registry promote": ("t 1 --reason x", {"task": "t", "version": 1, "reason": "x"}),
    "registry rollback": ("t --reason x", {"task": "t", "reason": "x"}),
    "registry audit": ("", {}),
    "registry gc": ("", {}),
    "registry precision": ("", {}),
    "registry export": ("--out f", {"out": "f"}),
    "registry import": ("f", {"file": "f"}),
    "registry upgrade": ("", {}),
}
REFUSED = [
    ("check c --max-suspects -3", "--max-suspects: must be a whole number, at least 0, got -3"),
    ("check c --max-suspects some", "--max-suspects: must be a whole number, at least 0, got 'some'"),
    ("retrain c --lease nan", "--lease: must be a finite number in (0, inf), got 'nan'"),
    ("retrain c --lease 0", "--lease: must be a finite number in (0, inf), got '0'"),
    ("retrain c --wait -1", "--wait: must be a finite number in [0, inf), got '-1'"),
    ("retrain c --wait inf", "--wait: must be a finite number in [0, inf), got 'inf'"),
    ("retrain c --max-price nan", "--max-price: must be a finite number"),
    ("retrain c --all --workers 0", "--workers: must be a whole number, at least 1, got 0"),
    ("retrain c --all --executor dask", "--executor: invalid choice: 'dask'"),
    ("cache gc --max-gib nan", "--max-gib: must be a finite number"),
    ("predict g --text x --top 0", "--top: must be a whole number, at least 1"),
    ("predict g --text x --dtype float16", "--dtype: has another name now; use --precision"),
    ("export g --format jax --out o --batch 0", "--batch: must be a whole number, at least 1"),
    ("export g --format jax --out o --buckets 16,x", "--buckets: must be a whole number, got 'x'"),
    ("combine a b --out o --rank -1", "--rank: must be a whole number, at least 0"),
    ("combine a b --out o --density nan", "--density: must lie in (0, 1], got 'nan'"),
    ("combine a b --out o --density 1.5", "--density: must lie in (0, 1], got '1.5'"),
    ("combine a b --out o --weights 1,inf", "--weights: must be a finite number, got 'inf'"),
    ("registry list --limit 0", "--limit: must be a whole number, at least 1"),
    ("registry list t --before -4", "--before: must be a whole number, at least 1"),
    ("registry gc --keep -1", "--keep: must be a whole number, at least 0"),
    ("registry show t 0", "version: must be a whole number, at least 1, got 0"),
    ("registry publish g --parent 0", "--parent: must be a whole number, at least 1"),
    ("registry promote t 1 --reason x --expect -1", "--expect: must be a whole number, at least 0"),
    ("registry promote t 1 --reason", "--reason: expected one argument"),
    ("serve --backbone b --port 65536", "--port: must be a whole number, 0 to 65535, got 65536"),
    ("serve --backbone b --slots 0", "--slots: must be a whole number, at least 1"),
    ("serve --backbone b --max-wait-ms -1", "--max-wait-ms: must be a finite number in [0, inf)"),
    ("serve --backbone b --poll-seconds 0", "--poll-seconds: must be a finite number in (0, inf)"),
    ("serve --backbone b --batch-sizes 8,0", "--batch-sizes: must be a whole number, at least 1, got 0"),
    ("serve --backbone b --batch-sizes -1", "--batch-sizes: must be a whole number, at least 1, got -1"),
    ("serve --backbone b --max-queued 0", "--max-queued: must be a whole number, at least 1"),
    ("train", "the following arguments are required: config"),
    ("trian c", "invalid choice: 'trian'"),
    # former names, with the value beside or behind them, and shortened names
    ("serve --backbone b --most-waiting 5", "--most-waiting: has another name now; use --max-waiting"),
    ("serve --backbone b --most-queued=5", "--most-queued: has another name now; use --max-queued"),
    ("serve --backbone b --most-watts 5", "--most-watts: has another name now; use --max-watts"),
    ("serve --backbone b --most-celsius 5", "--most-celsius: has another name now; use --max-celsius"),
    ("cache gc --most-gib 5", "--most-gib: has another name now; use --max-gib"),
    ("audit-labels c --max-suspects 5", "audit-labels: has another name now; use `topgraft check CONFIG --audit`"),
    ("audit-labels", "audit-labels: has another name now; use `topgraft check CONFIG --audit`"),
    ("check c --audit --max 5", "topgraft check: --max: options may not be shortened; write --max-suspects"),
    ("retrain c --dry", "topgraft retrain: --dry: options may not be shortened; write --dry-run"),
    ("registry gc --dry", "topgraft registry gc: --dry: options may not be shortened; write --dry-run"),
    ("serve --max-w=3", "--max-w: options may not be shortened; write --max-wait-ms or --max-waiting or --max-watts"),
    # misspelt names: told before what is missing because of them; values with spaces are values
    ("export g --formt peft --out o", "topgraft export: --formt: no such option; nearest: --format"),
    ("train --workdri=r c", "topgraft train: --workdri: no such option; nearest: --workdir"),
    ("serve --backbone b --qiet", "topgraft serve: --qiet: no such option; nearest: --quiet"),
    ("registry publish g --stor s", "topgraft registry publish: --stor: options may not be shortened; write --store"),
    ("predict g --text --a", "topgraft predict: --a: no such option"),
    ("predict g --top 0 --text=--a", "--top: must be a whole number"),
    ("plan c d", "topgraft plan: unrecognized arguments: d; options stand behind their verb, values are quoted"),
    ("--quiet train c", "topgraft: unrecognized arguments: --quiet; options stand behind their verb"),
]


@pytest.mark.parametrize(("words", "message"), REFUSED, ids=[words for words, _ in REFUSED])
def test_nonsense_is_refused(words, message, capsys):
    assert topgraft.main([*words.split(), "--json"]) == 2
    out, err = capsys.readouterr()
    assert message in err
    assert as_json(out) == {"error": err.strip().splitlines()[-1], "exit": 2}


UNREAD = [
    ("cache stat --max-gib 1", "--max-gib: belongs to `cache gc`, which removes segments; stat removes none"),
    ("cache verify --max-gib 0", "--max-gib: belongs to `cache gc`, which removes segments; verify removes none"),
    ("inspect . --set epochs=1", "--set epochs=1: changes a config; . is a folder, which is described as it is"),
    ("retrain c --executor ray", "--executor: belongs to --all, got ray without it"),
    ("retrain c --workers 2", "--workers: belongs to --all, got 2 without it"),
    ("registry list --before 3", "--limit: this and --before are for the versions of a task; name one"),
    ("combine a b --out o --density 0.5", "--density: for ties only; got 0.5 with cat"),
    ("export g --format peft --out o --batch 4", "--batch: belongs to --format jax; peft does not read it"),
    ("export g --format vllm --out o --buckets 8", "--buckets: belongs to --format jax; vllm does not read it"),
    ("export g --format pfet --out o", "--format: 'pfet' is unknown; nearest: peft"),
    ("serve --backbone b --grafts g --store s", "--store: belongs to --registry; --grafts names the folder"),
    ("serve --backbone b --grafts g --envelope e --slots 8", "--slots: is for the default envelope; e says its own"),
    ("serve --backbone b --grafts g --dwell 8", "--dwell: nothing switches the submodel; set --submodels and a bound"),
]


@pytest.mark.parametrize(("words", "message"), UNREAD, ids=[words for words, _ in UNREAD])
def test_an_option_that_nothing_would_read_is_refused(words, message, capsys):
    assert topgraft.main([*words.split(), "--json"]) == 2
    out, err = capsys.readouterr()
    assert message in as_json(out)["error"]
    assert err.startswith(f"topgraft {words.split()[0]}")


@pytest.mark.parametrize("verb", ["promote", "rollback"])
@pytest.mark.parametrize("blank", ["", "  "])
def test_a_reason_is_a_reason(verb, blank, capsys):
    words = ["registry", verb, "task", *(["1"] if verb == "promote" else []), "--reason", blank]
    assert topgraft.main(words) == 2
    out, err = capsys.readouterr()
    assert "--reason: must not be blank; say it in a few words" in err
    assert out == ""


def declared(cls: type) -> dict[str, tuple[type, dataclasses.Field]]:
    """Every option of a dataclass and of the dataclasses in it: its class and its field, by the option's name."""
    options = {}
    for field in dataclasses.fields(cls):
        if KEY in field.metadata:
            options[(field.metadata[KEY].name or field.name).replace("_", "-")] = (cls, field)
        elif dataclasses.is_dataclass(hints(cls)[field.name]):
            options |= declared(hints(cls)[field.name])
    return options


def parser_of(verb: type[Verb]) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = topgraft.parser()
    for word in [verb.verb] if verb in trainers.commands.VERBS else verb.verb.split():
        (group,) = (action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
        parser = group.choices[word]
    return parser


@pytest.mark.parametrize("verb", VERBS, ids=lambda verb: verb.verb)
def test_every_option_is_a_field_with_its_help_and_default(verb):
    fields = declared(verb)
    actions = [a for a in parser_of(verb)._actions if a.help != argparse.SUPPRESS and a.dest != "help"]
    assert {a.dest.replace("_", "-") for a in actions} == set(fields)
    assert {"json", "quiet"} <= set(fields)
    for action in actions:
        _, field = fields[action.dest.replace("_", "-")]
        said = field.metadata[KEY]
        assert said.help
        assert said.help in action.help.replace("%%", "%")
        assert action.default is None, "the one default is the field's"
        if isinstance(field.default, (int, float)) and not isinstance(field.default, bool):
            assert action.help.endswith(f"(default: {field.default:g})")
        if isinstance(field.default, str) and field.default:
            assert action.help.endswith(f"(default: {field.default})")
        if said.positional:
            assert not action.option_strings
        else:
            negative = field.default is True
            assert action.option_strings == [f"--{'no-' if negative else ''}{action.dest.replace('_', '-')}"]


@pytest.mark.parametrize("verb", VERBS, ids=lambda verb: verb.verb)
def test_without_options_a_verb_has_the_defaults_of_its_dataclass(verb):
    words, fields = NEEDED[verb.verb]
    namespace = topgraft.parser().parse_args([*verb.verb.split(), *words.split()])
    assert namespace.verb is verb
    assert filled(verb, namespace) == verb(**fields)
    assert dataclasses.replace(verb(**fields), json=True) == filled(
        verb, topgraft.parser().parse_args([*verb.verb.split(), *words.split(), "--json"])
    )


def test_no_help_text_is_written_twice():
    texts: dict[str, set[str]] = {}
    for verb in VERBS:
        for name, (cls, field) in declared(verb).items():
            owner = next(base for base in reversed(cls.__mro__) if field.name in vars(base).get("__annotations__", {}))
            texts.setdefault(field.metadata[KEY].help, set()).add(f"{owner.__module__}.{owner.__qualname__}.{name}")
    shared = {text: owners for text, owners in texts.items() if len(owners) > 1}
    # a config, which is one for most verbs and several for retrain, has its text in one constant
    assert shared == {
        trainers.commands.SCRIPT: {"trainers.config.load.Scripted.config", "trainers.commands.Retrain.config"}
    }


def test_a_verb_is_parsed_without_jax_and_without_a_database():
    code = (
        "import sys, topgraft; topgraft.parser().parse_args(['train', 'c']); "
        "sys.exit(any(m.split('.')[0] in ('jax', 'flax', 'scipy', 'sqlalchemy', 'uvicorn') for m in sys.modules))"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


@dataclasses.dataclass(frozen=True)
class Inner:
    """Options in a dataclass of their own."""

    share: float = option(0.5, "share in % of the whole", above=0, max=1)
    plain: int = 3  # no option

    def __post_init__(self) -> None:
        check(self)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outer:
    """Every kind of field."""

    inner: Inner = dataclasses.field(default_factory=Inner)
    names: tuple[str, ...] = argument("names", name="name")
    count: int = required("a count", min=1, max=9)
    sizes: tuple[int, ...] = option((1, 8), "sizes", min=1)
    words: tuple[str, ...] = option((), "words", name="word", repeat=True)
    careful: bool = option(True, "look twice")
    former: int | None = option(None, "a number", former="old")


def outer(*words: str) -> Outer:
    parser = Parser(prog="p")
    add_fields(parser, Outer)
    return filled(Outer, parser.parse_args(words))


def test_kinds_of_fields():
    assert outer("a", "b", "--count", "2") == Outer(names=("a", "b"), count=2)
    words = "a --count 9 --sizes 2,4,,8 --word x --word y,z --no-careful --former 7 --share 1"
    assert outer(*words.split()) == Outer(
        names=("a",),
        count=9,
        sizes=(2, 4, 8),
        words=("x", "y,z"),
        careful=False,
        former=7,
        inner=Inner(share=1.0),
    )
    assert outer("a", "--count", "1", "--sizes", " 2, 4 ").sizes == (2, 4)
    parser = Parser(prog="p")
    add_fields(parser, Outer)
    text = " ".join(parser.format_help().split())
    for part in ("--no-careful do not look twice", "sizes (default: 1,8)", "share in % of the whole (default: 0.5)"):
        assert part in text, part
    assert "--old" not in text
    for wrong, message in (
        (("a",), "the following arguments are required: --count"),
        (("a", "--count", "10"), "--count: must be a whole number, 1 to 9, got 10"),
        (("a", "--count", "1", "--sizes", "4,0"), "--sizes: must be a whole number, at least 1, got 0"),
        (("a", "--count", "1", "--share", "0"), r"--share: must lie in \(0, 1\], got '0'"),
        (("a", "--count", "1", "--old", "2"), "--old: has another name now; use --former"),
    ):
        with pytest.raises(InputError, match=message):
            outer(*wrong)


def test_bounds_hold_in_python_too():
    for make, message in (
        (lambda: Inner(share=1.5), r"--share: must lie in \(0, 1\], got '1.5'"),
        (lambda: Options(wait_seconds=float("nan")), "--wait: must be a finite number in"),
        (lambda: trainers.commands.Cache(action="keep"), "action: must be one of stat, verify, gc, got 'keep'"),
        (lambda: adapters.commands.Combine(grafts=("a",), out="o", weights=(1.0, 0.0)), "--weights: none may be zero"),
        (lambda: adapters.commands.Combine(grafts=("a",), out="o", rank=2), "--rank: a positive number, for svd"),
    ):
        with pytest.raises(InputError, match=message):
            make()


VERSIONED = (("show", "t"), ("diff", "t"), ("promote", "t", "--reason=r"), ("list", "t", "--before"))


@pytest.mark.parametrize("words", VERSIONED)
def test_a_number_that_no_database_holds_is_refused(words, tmp_path, capsys):
    place = ["--registry", f"sqlite:///{tmp_path}/r.db", "--store", str(tmp_path)]
    assert topgraft.main(["registry", *words, str(2**63), *place]) == 2
    assert f"must be a whole number below 2^63, got {2**63}" in capsys.readouterr().err
    assert topgraft.main(["registry", *words, str(2**63 - 1), *place]) == 2
    assert "below 2^63" not in capsys.readouterr().err


def test_a_job_survives_its_json():
    options = Options(dry_run=True, max_price=0.1, promote=False, lease_seconds=1 / 3, wait_seconds=2.5, show=True)
    place = Place("postgresql://me@host/name", "a store")
    job = Job(config="a config.py", overrides=("data.train=a,b", "name=--json"), place=place, options=options)
    assert decode(Job, json.loads(json.dumps(encode(job)))) == job
    assert encode(decode(Job, {"config": "c"})) == encode(Job(config="c"))


def test_a_child_process_answers_a_job_with_an_outcome():
    job = Job(config="nowhere.py", overrides=(), place=Place("sqlite:///r.db", "s"), options=Options(show=False))
    done = subprocess.run(
        [sys.executable, "-m", "trainers.retrain.workers"],
        input=json.dumps(encode(job)) + "\n",
        capture_output=True,
        text=True,
        env={"PYTHONPATH": str(ROOT)},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    outcome = as_json(done.stdout)
    assert (outcome["task"], outcome["action"], outcome["exit"]) == ("nowhere", "error", 2)
    assert outcome["reason"].startswith("nowhere.py: no such config script")
    assert f"topgraft retrain: {outcome['reason']}" in done.stderr


SCRIPT = """
from trainers.config import Bound, Column, Gate, Retrain, Schema, TrainConfig

def get_config():
    return TrainConfig(retrain=Retrain(gate=Gate(bounds=({bound},)), schema=Schema(columns=({column},))))
"""


@pytest.mark.parametrize(
    ("bound", "column", "former", "now"),
    [
        ("Bound(most_lost=0.1)", "Column()", "most_lost", "max_drop"),
        ("Bound(at_least=0.1)", "Column(least=1)", "least", "min"),
        ("Bound(at_least=0.1)", "Column(most=1)", "most", "max"),
    ],
)
def test_a_former_field_of_a_config_is_refused_with_the_present_name(bound, column, former, now, tmp_path, capsys):
    script = tmp_path / "config.py"
    script.write_text(SCRIPT.format(bound=bound, column=column))
    assert topgraft.main(["train", str(script)]) == 2
    err = capsys.readouterr().err
    assert f"config.py:5: get_config(): {bound.split('(')[0] if 'most_lost' in bound else 'Column'}" in err
    assert f"'{former}'; the field is now {now}" in err
    script.write_text(SCRIPT.format(bound="Bound(at_least=0.1)", column="Column()"))
    table, values = ("gate.bounds", {former: 0.1}) if former == "most_lost" else ("schema.columns", {former: 1})
    with pytest.raises(InputError, match=rf"{former}: no such field in \w+; it is now {now}$"):
        override(load_config(script), [f"retrain.{table}=[{json.dumps(values)}]"])


def test_a_script_may_import_a_module_by_its_former_name(tmp_path):
    script = tmp_path / "config.py"
    script.write_text(
        "import trainers.policy\nfrom trainers.backbone_config import BackboneConfig, Corpus\n\n"
        "def get_config():\n    from trainers.experiment import find_config\n"
        "    assert trainers.policy.Gate().min_rows and find_config('trec6')\n"
        "    return BackboneConfig(name='former', corpus=Corpus(tokens=64))\n"
    )
    config = load_as(BackboneConfig, script)
    assert (config.name, config.corpus.tokens) == ("former", 64)
    assert type(config) is BackboneConfig
    assert not [name for name in ("trainers.policy", "trainers.backbone_config") if name in sys.modules]


def test_the_console_script_gives_small_products_one_thread(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["topgraft", "--help"])
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "3")
    for expected in ("3", "1"):
        with pytest.raises(SystemExit, match=r"^0$"):
            topgraft.run()
        assert os.environ["OPENBLAS_NUM_THREADS"] == expected
        monkeypatch.delenv("OPENBLAS_NUM_THREADS")
