"""Folders made by PEFT over its options, live: equal logits in both directions, or refused by name; `make test-peers`.

`benchmarks/peft_folders.py` writes the same cases as a results file.
"""

from __future__ import annotations

import random

import pytest

torch = pytest.importorskip("torch", reason="the peers environment has PyTorch; see make test-peers")
transformers = pytest.importorskip("transformers", reason="the peers environment has PyTorch; see make test-peers")
peft = pytest.importorskip("peft", reason="the peers environment has PyTorch; see make test-peers")

from peft.tuners.tuners_utils import check_target_module_exists  # noqa: E402
from peft.utils.other import get_pattern_key  # noqa: E402

from adapters.export.peft import export_peft  # noqa: E402
from adapters.export.peft.names import Chosen, Pattern  # noqa: E402
from adapters.specs import IA3, Classification, Dora, Lora, LoraOverride, MultiLabel, TokenTagging  # noqa: E402
from backbone.exchange.importing import import_backbone  # noqa: E402
from backbone.storage import load_backbone  # noqa: E402
from benchmarks.peers.peft_folders import CASES, Case, loaded, trunk  # noqa: E402
from benchmarks.peft_folders import TOLERANCE, distance, ours, run  # noqa: E402
from tests.grafts import make  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore:.*:UserWarning", "ignore:.*:FutureWarning", "ignore:.*:RuntimeWarning")

ONE_WAY = ("bias_of_layers", "bias_of_b")  # two methods in one graft, which PEFT export refuses


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("folders")


@pytest.mark.parametrize("name", CASES)
def test_a_folder_of_peft_gives_its_logits_or_is_refused(name, folder):
    verdict = run(name, folder)
    if CASES[name].refused:
        assert (verdict.verdict, verdict.back) == ("refused", "")
        assert CASES[name].refused in verdict.message
        return
    assert verdict.verdict == "equal", verdict
    assert verdict.moved > 1e-2, "the adapter changes something"
    if name in ONE_WAY:
        assert "PEFT export takes one of" in verdict.back_message
    else:
        assert verdict.back == "equal", verdict


def backbone_of(family: str, folder):
    path = folder / "imported" / family
    if not path.exists():
        import_backbone(trunk(family, folder), path)
    return load_backbone(path)


ATTENTION = ("attention/query", "attention/key", "attention/value")


FUSED = [
    Lora(rank=3, sites=ATTENTION),
    Lora(rank=2, sites=("attention/value",), blocks="1:"),
    Lora(
        rank=2,
        alpha=5.0,
        sites=("attention/*", "mlp/*"),
        scaling="rank_stabilised",
        overrides=(LoraOverride("attention/key", rank=4, alpha=3.0), LoraOverride("mlp/up", alpha=11.0)),
    ),
]
EXPORTS = [
    *(("modernbert", spec, Classification("mean"), vllm) for spec in FUSED for vllm in (False, True)),
    (
        "modernbert",
        Dora(rank=2, sites=("attention/query", "attention/value", "mlp/down")),
        Classification("mean"),
        False,
    ),
    ("modernbert", IA3(), Classification("mean"), False),
    (
        "bert",
        Lora(rank=2, sites=ATTENTION, overrides=(LoraOverride("0/*/*", rank=5, alpha=2.0),)),
        TokenTagging(),
        False,
    ),
    ("bert", Lora(rank=2), MultiLabel("pooler"), True),
    ("roberta", Dora(rank=2), Classification("mean"), False),
    ("distilbert", Lora(rank=2, sites=("mlp/*",)), TokenTagging(), False),
]


@pytest.mark.parametrize(("family", "spec", "head", "vllm"), EXPORTS)
def test_what_we_export_is_what_peft_computes(family, spec, head, vllm, folder, tmp_path):
    backbone = backbone_of(family, folder)
    make(tmp_path / "graft", backbone, spec, head)
    task = export_peft(tmp_path / "graft", tmp_path / "peft", backbone=backbone.path, vllm=vllm).task
    model = {"FEATURE_EXTRACTION": "PLAIN"}.get(task, task)
    wanted = loaded(Case({}, family=family, model=model), tmp_path / "peft", folder)
    assert wanted is not None
    assert distance(ours(tmp_path / "graft", family, backbone.path), wanted, family) < TOLERANCE


def test_names_are_chosen_as_peft_chooses_them():
    names = [
        f"{prefix}{stack}.{layer}.{part}"
        for prefix in ("", "bert.")
        for stack in ("encoder.layer", "layers")
        for layer in (0, 1, 10)
        for part in ("attention.self.query", "attn.Wqkv", "output.dense", "0.inner")
    ]
    parts = [
        "query",
        "self",
        "layer.1.attention.self.query",
        "dense",
        "Wqkv",
        "1",
        "inner",
        "layers.0.attn.Wqkv",
        *names[:3],
    ]
    expressions = [
        ".*query",
        "query",
        "^bert.*",
        "encoder.*",
        r".*\.1\..*",
        "(?i).*WQKV",
        "^encoder.layer.0.*query",
        "a|.*dense",
    ]
    draw = random.Random(0)
    for _ in range(3000):
        fields = {
            "target_modules": draw.choice([draw.choice(expressions), draw.sample(parts, draw.randint(1, 3))]),
            "exclude_modules": draw.choice([None, None, draw.choice(expressions), draw.sample(parts, 1)]),
            "modules_to_save": draw.choice([None, None, draw.sample(parts, 1)]),
        }
        if isinstance(fields["target_modules"], list):
            fields |= {
                "layers_to_transform": draw.choice([None, 0, [1], [0, 10]]),
                "layers_pattern": draw.choice([None, "layer", ["layers", "layer"]]),
            }
            if fields["layers_to_transform"] is None:
                fields["layers_pattern"] = None
        config = peft.LoraConfig(**fields)
        chosen = Chosen.of(fields, "c", ())
        for name in names:
            assert chosen.chooses(name) == bool(check_target_module_exists(config, name)), (fields, name)
        patterns = {
            key: float(n) for n, key in enumerate(draw.sample([*parts, *expressions[:5], *expressions[6:]], 3), 1)
        }
        pattern = Pattern.of({"alpha_pattern": patterns}, "alpha_pattern", "lora_alpha", 8, "c")
        for name in names:
            assert pattern(name) == patterns.get(get_pattern_key(patterns.keys(), name), 8), (patterns, name)
