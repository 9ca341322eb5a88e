"""Config scripts, overrides, and the strict records under them."""

from __future__ import annotations

import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from adapters.specs import IA3, Bottleneck, Classification, Ladder, Lora, LoraOverride, MultiLabel, Probe
from backbone.errors import InputError
from backbone.records import Raw, canonical_json, decode, digest, encode
from trainers.config import Data, Optimizer, TrainConfig
from trainers.config.load import find_config, load_config, override, override_part

ROOT = Path(__file__).resolve().parents[3]
CONFIGS = sorted(p.stem for p in (ROOT / "configs").glob("[a-z]*.py"))


@pytest.mark.parametrize("name", CONFIGS)
def test_every_config_loads_by_name_and_survives_its_json(name):
    config = load_config(name)
    assert decode(TrainConfig, encode(config)) == config
    assert load_config(ROOT / "configs" / f"{name}.py") == config


def test_configs_and_specs_import_no_jax():
    modules = (
        "trainers.config, trainers.config.load, trainers.data.rows, trainers.data.splits, adapters.specs, "
        "backbone.records, backbone.variants.registered, trainers.data.formats.format, trainers.pretraining.config"
    )
    heavy = ("jax", "flax", "optax", "torch", "tensorflow", "pyarrow", "PIL", "tensorflow_datasets")
    code = (
        f"import {modules}, sys; backbone.variants.registered.variants(trainers.data.formats.format.Format); "
        "trainers.config.load.load_config('trec6', ['adapter.method=ladder', 'adapter.reduction=4']); "
        f"sys.exit(any(m.split('.')[0] in {heavy} for m in sys.modules))"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_overrides_are_read_as_the_type_of_the_field():
    config = override(
        TrainConfig(),
        [
            "epochs=1",
            "batch_size=64",
            "remat=true",
            "optimizer.learning_rate=3e-4",
            "data.train=a.csv,b.csv",
            "data.label=1",
            'adapter.sites=["attention/*", "mlp/up"]',
            "adapter.overrides=[]",
            "data.test=",
        ],
    )
    assert (config.epochs, config.batch_size, config.remat) == (1.0, 64, True)
    assert isinstance(config.epochs, float)
    assert config.optimizer.learning_rate == 3e-4
    assert config.data.train == ("a.csv", "b.csv")
    assert config.data.label == "1"
    assert config.data.test == ()
    assert config.adapter == Lora(sites=("attention/*", "mlp/up"))


def test_another_method_starts_from_its_own_defaults():
    config = override(TrainConfig(adapter=Lora(rank=3)), ["adapter.method=bottleneck", "adapter.width=5"])
    assert config.adapter == Bottleneck(width=5)
    assert override(config, ["adapter.method=bottleneck"]).adapter == Bottleneck(width=5), "the same tag keeps fields"
    assert override(config, ["head.kind=multi_label", "head.threshold=0.4"]).head == MultiLabel(threshold=0.4)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("epoch=1", "epoch: no such field in TrainConfig; nearest: epochs"),
        ("data.trian=x", "data.trian: no such field in Data; nearest: train"),
        ("epochs", "expected FIELD=VALUE"),
        ("=1", "expected FIELD=VALUE"),
        ("epochs.x=1", "epochs has no fields"),
        ("optimiser.clip_norm=1", "--set optimiser.clip_norm: the config has no field 'optimiser'; nearest: optimizer"),
        ("retrain.gat.tolerance=1", "retrain.gat.tolerance: retrain has no field 'gat'; nearest: gate"),
        ("a.b=1", "--set a.b: the config has no field 'a'; nearest: plan"),
        ("batch_size=1.5", "batch_size: '1.5' is not an int"),
        ("batch_size=0", "batch_size: must be at least 1"),
        ("remat=maybe", "remat: 'maybe' is not a bool"),
        ("optimizer.schedule=step", "optimizer.schedule: 'step' is not one of linear, cosine, constant"),
        ("optimizer.learning_rate=-1", "optimizer.learning_rate: must be a positive number"),
        ("optimizer.learning_rate=nan", "optimizer.learning_rate: must be a finite number"),
        ("adapter.rank=0", "adapter.rank: must be a positive number"),
        ("adapter.method=lor", "adapter.method: 'lor' is unknown; nearest: lora"),
        ("adapter.width=4", "adapter.width: no such field in Lora"),
        ("adapter.sites=[x", "not a JSON list"),
        ("adapter.sites=" + "[" * 100_000, "not a JSON list"),
        (f"adapter.sites=[{'9' * 5000}]", "not a JSON list"),
        ("data.dev_fraction=1", "data.dev_fraction: "),
        ("data.max_tokens=2", "data.max_tokens: must be at least 3"),
        ("name=a/b", "name: 'a/b' must be a plain folder name"),
        ("epochs=inf", "epochs: must be a finite number, got inf"),
        ("target.min_score=nan", "target.min_score: must be a finite number, got nan"),
        ("seed=-1", "seed: must lie in 0..4294967295, got -1"),
        ("plan.stages=geometric(1.2.3)", "plan.stages: geometric(1.2.3): a: '1.2.3' is not a float"),
        ("extra=[1]", "extra[0]: expected a table with method="),
    ],
)
def test_bad_overrides_name_the_field(text, message):
    with pytest.raises(InputError, match=re.escape(message)):
        override(TrainConfig(), [text])


def test_one_section_can_be_overridden():
    assert override_part(Data(), "data", ["data.text=body"]).text == "body"
    with pytest.raises(InputError, match=r"expected data\.FIELD=VALUE"):
        override_part(Data(), "data", ["epochs=1"])


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("x = 1\n", "defines no function get_config"),
        ("def get_config():\n    return 3\n", "returned int, expected TrainConfig"),
        ("def get_config(:\n", r"config.py:1: the config script failed: SyntaxError"),
        ("import no_such_module\n", r"config.py:1: the config script failed: ModuleNotFoundError"),
        (
            "from trainers.config import *\n\ndef get_config():\n    return TrainConfig(epoch=1)\n",
            r"config.py:4: get_config\(\): .*epoch",
        ),
        (
            "from trainers.config import *\ndef get_config():\n    return TrainConfig(epochs=-1)\n",
            r"config.py.*epochs: must be positive",
        ),
        (
            "import sys\nsys.exit(0)\n",
            r"config.py:2: the config script failed: SystemExit: 0; it ends the process",
        ),
        ("def get_config():\n    raise SystemExit\n", r"config.py:2: get_config\(\): SystemExit: None; it ends"),
        ("def get_config():\n    raise GeneratorExit('x')\n", r"config.py:2: get_config\(\): GeneratorExit: x"),
    ],
)
def test_a_script_that_fails_is_named_with_its_line(script, message, tmp_path):
    (tmp_path / "config.py").write_text(script)
    with pytest.raises(InputError, match=message):
        load_config(tmp_path / "config.py")


def test_a_field_with_the_name_of_another_kinds_tag_is_set_like_any_other(tmp_path):
    (tmp_path / "config.py").write_text(
        "from dataclasses import *\nfrom adapters.specs import Lora\nfrom trainers.config import TrainConfig\n\n"
        "@dataclass(frozen=True)\nclass Own(Lora, tag='own_lora'):\n    kind: str = 'x'\n    family: str = 'y'\n\n"
        "def get_config():\n    return TrainConfig(adapter=Own(rank=3))\n"
    )
    try:
        adapter = load_config(tmp_path / "config.py", ["adapter.kind=lora", "adapter.family=bert"]).adapter
        assert (adapter.tag, adapter.rank, adapter.kind, adapter.family) == ("own_lora", 3, "lora", "bert")
    finally:
        Lora.registry.variants.pop("own_lora", None)
        Lora.registry.files.pop("own_lora", None)


@pytest.mark.parametrize(
    ("line", "place"),
    [
        ("from trainers.config import Lora", "Lora is in adapters.specs: from adapters.specs import Lora"),
        ("from adapters.specs import Gate", "Gate is in trainers.config: from trainers.config import Gate"),
        ("from trainers import TrainConfig", "TrainConfig is in trainers.config: from"),
        ("from trainers.data import Data", "Data is in trainers.config: from"),
        ("from trainers.specs import Classification, Lora", "Classification is in adapters.specs: .*; Lora is in adap"),
        ("from adapters.lora.settings import Lora", "No module named 'adapters.lora'; Lora is in adapters.specs"),
        ("import trainers.config\ntrainers.config.LoraOverride()", "LoraOverride is in adapters.specs: from"),
        ("adapter = Lora()", "name 'Lora' is not defined; Lora is in adapters.specs"),
        ("from adapters.specs import LoRA", "cannot import name 'LoRA' .*; in adapters.specs, nearest: Lora"),
        ("from backbone.errors import *; nearest_of()", r"name 'nearest_of' is not defined$"),
        ("import not_a_module", "No module named 'not_a_module'$"),
        ("from json import Lora", r"cannot import name 'Lora' from 'json' \(\S+\)$"),
    ],
)
def test_a_name_in_the_wrong_module_comes_with_its_place(line, place, tmp_path):
    (tmp_path / "top.py").write_text(line)
    (tmp_path / "inside.py").write_text(
        "def get_config():\n" + textwrap.indent(line.replace("import *", "import nearest"), "    ")
    )
    for script in ("top.py", "inside.py"):
        with pytest.raises(InputError, match=rf"{script}:[12345]: .*{place}"):
            load_config(tmp_path / script)


def test_an_unknown_config_lists_the_known_ones():
    with pytest.raises(InputError, match=r"banking66: no such config script; by name: .*banking77"):
        find_config("banking66")


SPECS = (
    Lora(rank=3, overrides=(LoraOverride("mlp/*", rank=2, alpha=1.0),), scaling="rank_stabilised", blocks="2:4"),
    Bottleneck(width=4, placement="parallel"),
    IA3(),
    Probe(),
    Ladder(reduction=4),
    Classification(pooling="first", dropout=0.2),
    MultiLabel(threshold=0.3),
    Optimizer(schedule="cosine"),
    Data(train=("a", "b"), label_names=("x", "y")),
)


@pytest.mark.parametrize("spec", SPECS, ids=lambda s: type(s).__name__)
def test_records_round_trip(spec):
    assert decode(type(spec), encode(spec)) == spec
    assert digest(encode(spec)) == digest(encode(decode(type(spec), encode(spec))))


def test_records_are_strict():
    with pytest.raises(InputError, match=r"here.rank: expected int, got '8'"):
        decode(Lora, {"method": "lora", "rank": "8"}, "here")
    with pytest.raises(InputError, match="rank: expected int, got True"):
        decode(Lora, {"rank": True})
    with pytest.raises(InputError, match="method: expected 'lora', got 'ia3'"):
        decode(Lora, {"method": "ia3"})
    with pytest.raises(InputError, match="expected the fields of Lora"):
        decode(Lora, [1])
    assert decode(Lora, {"rank": Raw("3")}).rank == 3
    with pytest.raises(ValueError, match="JSON compliant"):
        canonical_json({"x": float("nan")})
    assert canonical_json({"b": 1, "a": [1.5, None]}) == '{"a":[1.5,null],"b":1}'


def test_a_number_too_large_for_a_float_is_refused():
    with pytest.raises(InputError, match=r"epochs: must be a finite number, got 1000"):
        decode(TrainConfig, {"name": "t", "epochs": 10**400})
