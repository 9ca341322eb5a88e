"""Writes the golden files beside it with transformers and PEFT; run by `make goldens` in the peers environment.

With names of families it writes the golden files of these alone: `make golden FAMILY=electra`. The name `tokenizers`
stands for the tokenizers of all families.

Sentences are docstrings of the Python standard library (PSF licence), kept in `sentences.json` so that
the files do not move with the Python version. Hidden states are kept at the first and the last real
token and as the mean, so that the files stay small; `tests/peers` compares whole tensors live.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import peft
import tokenizers
import torch
import transformers
from safetensors.numpy import load_file, save_file
from tokenizers import Tokenizer

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent.parent))

from backbone.buckets import pad  # noqa: E402
from backbone.exchange.importing import minilm_folder  # noqa: E402
from backbone.trees import flatten  # noqa: E402
from tests.families import CONFIGS, TEXT, config_of, family_of, images, token_rows  # noqa: E402
from tests.published_tokenizers import CUT, FOLDERS, digest, strings, write_folder  # noqa: E402
from tests.tiny import SPEC, golden_params, preprocessing_of, rows  # noqa: E402

LABELS = 5
PLAIN = {"r": 4, "lora_alpha": 8, "target_modules": ["query", "value"], "layers_to_transform": [4, 5]}
RANK_STABILISED = {
    "r": 4,
    "lora_alpha": 8,
    "use_rslora": True,
    "target_modules": ["query", "key", "value", "dense"],
    "layers_to_transform": [5],
    "rank_pattern": {"intermediate.dense": 2},
    "alpha_pattern": {"attention.self.key": 3},
}


def tiny_configs() -> dict[str, peft.PeftConfig]:
    """One PEFT config for each method that the tiny backbone has a golden file of."""
    task = {"task_type": "SEQ_CLS"}
    return {
        "peft_dora": peft.LoraConfig(
            r=3,
            lora_alpha=5,
            use_dora=True,
            target_modules=["query", "output.dense"],
            rank_pattern={"query": 2},
            **task,
        ),
        "peft_ia3": peft.IA3Config(
            target_modules=["key", "value", "output.dense"], feedforward_modules=["output.dense"], **task
        ),
        "peft_vera": peft.VeraConfig(
            r=16,
            projection_prng_key=7,
            target_modules=["key", "intermediate.dense"],
            layers_to_transform=[1, 2],
            **task,
        ),
        "peft_ln_tuning": peft.LNTuningConfig(target_modules=["output.LayerNorm"], **task),
    }


def sentences() -> list[str]:
    """64 texts of 3 to about 120 tokens."""
    stored = HERE / "sentences.json"
    if not stored.exists():
        from trainers.data.docstrings import collect

        texts = sorted({" ".join(text.split()) for text, _ in collect()}, key=lambda t: (len(t), t))
        texts = [text for text in texts if len(text) < 600 and text.isascii()]
        stored.write_text(json.dumps([texts[i] for i in np.linspace(0, len(texts) - 1, 64).astype(int)], indent=1))
    return json.loads(stored.read_text())


def encoded(texts: list[str]) -> dict[str, torch.Tensor]:
    """Padded ids and mask, at most 128 tokens."""
    tokenizer = Tokenizer.from_file(str(minilm_folder() / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(128)
    rows = [e.ids for e in tokenizer.encode_batch(texts)]
    longest = max(map(len, rows))
    ids = torch.tensor([row + [0] * (longest - len(row)) for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows])
    return {"input_ids": ids, "attention_mask": mask}


def peft_model(settings: dict, seed: int = 0) -> peft.PeftModel:
    """MiniLM for classification with a LoRA in which nothing is zero."""
    torch.manual_seed(seed)
    base = transformers.AutoModelForSequenceClassification.from_pretrained(minilm_folder(), num_labels=LABELS)
    model = peft.get_peft_model(base, peft.LoraConfig(task_type="SEQ_CLS", **settings)).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name or "classifier.modules_to_save" in name:
                parameter.normal_(0, 0.1)
    return model


def family_model(family: str, seed: int = 0, **changes: object) -> transformers.PreTrainedModel:
    """The family's tiny encoder with weights large enough that every part shows, none of them trivial."""
    torch.manual_seed(seed)
    config = transformers.AutoConfig.for_model(family, **CONFIGS[family] | changes)
    model = transformers.AutoModel.from_config(config, attn_implementation="eager").eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.2 * torch.randn_like(parameter)
            parameter.copy_(parameter.half().float())  # goldens are kept in half precision
    return model


@torch.inference_mode()
def family_states(model: transformers.PreTrainedModel, rows: list[np.ndarray]) -> list[np.ndarray]:
    """Last hidden states [t,D] of each row, computed in one padded batch."""
    ids, mask = pad(rows, max(map(len, rows)), model.config.pad_token_id or 0)
    output = model(input_ids=torch.tensor(ids, dtype=torch.long), attention_mask=torch.tensor(mask, dtype=torch.long))
    return [state[: len(row)].numpy() for state, row in zip(output.last_hidden_state, rows, strict=True)]


@torch.inference_mode()
def image_states(model: transformers.PreTrainedModel, pixels: np.ndarray) -> list[np.ndarray]:
    """Last hidden states [T,D] of images uint8 [N,S,S,C], normalised with mean and deviation 0.5."""
    values = (torch.tensor(pixels).permute(0, 3, 1, 2).float() / 255 - 0.5) / 0.5
    return list(model(pixel_values=values).last_hidden_state.numpy())


def family_golden(family: str) -> None:
    """`families/NAME.safetensors`: the file's tensors, and under `states.N` what they give."""
    model = family_model(family)
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        tensors = load_file(Path(folder) / "model.safetensors")
    kept = {name: value.astype(np.float16) for name, value in tensors.items()}
    states = family_states(model, token_rows()) if family in TEXT else image_states(model, images(family))
    kept |= {f"states.{i}": state.copy() for i, state in enumerate(states)}
    (HERE / "families").mkdir(exist_ok=True)
    save_file(kept, HERE / "families" / f"{family}.safetensors", {"config": json.dumps(config_of(family))})


def tiny_bert(labels: int = LABELS, kind: type = transformers.BertForSequenceClassification) -> Any:
    """The tests' tiny backbone (`tests.tiny.golden_params`) as transformers has it, with a random head."""
    config = transformers.BertConfig(
        vocab_size=SPEC.vocabulary,
        hidden_size=SPEC.width,
        num_hidden_layers=SPEC.blocks,
        num_attention_heads=SPEC.heads,
        intermediate_size=SPEC.mlp_width,
        max_position_embeddings=SPEC.positions,
        num_labels=labels,
    )
    weights = {}
    for path, leaf in flatten(golden_params()).items():
        names = family_of("bert").sources(path)
        for name, part in zip(names, np.split(leaf, len(names), axis=-1), strict=True):
            weights[name] = torch.from_numpy((part.T if path.endswith("kernel") else part).copy())
    torch.manual_seed(0)
    model = kind(config).eval()
    model.bert.load_state_dict({name: weights[name] for name in model.bert.state_dict()})
    return model


def tiny_peft(config: peft.PeftConfig, seed: int = 0, base: Any = None) -> peft.PeftModel:
    """The tiny backbone with a method in which nothing is at its start."""
    model = peft.get_peft_model(base or tiny_bert(), config).eval()
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.3 * torch.randn_like(parameter))
    return model


def tiny_texts() -> list[str]:
    return [text for text, _ in rows(16, seed=4)]


def tiny_inputs() -> dict[str, torch.Tensor]:
    """Padded ids and mask of `tiny_texts`, as the tiny backbone's tokenizer gives them."""
    ids = [torch.from_numpy(row.astype(np.int64)) for row in preprocessing_of().encode(tiny_texts(), 48)]
    padded = torch.nn.utils.rnn.pad_sequence(ids, batch_first=True)
    lengths = torch.tensor([len(row) for row in ids])
    return {"input_ids": padded, "attention_mask": (torch.arange(padded.shape[1]) < lengths[:, None]).long()}


@torch.inference_mode()
def write_tiny() -> None:
    """Adapters of the tiny backbone and the logits that PEFT gives."""
    logits = {}
    for name, config in tiny_configs().items():
        if name == "peft_vera":
            config.save_projection = False  # the seed alone must do
        model = tiny_peft(config)
        model.save_pretrained(HERE / name)
        (HERE / name / "README.md").unlink(missing_ok=True)
        logits[name] = model(**tiny_inputs()).logits.numpy().copy()
    save_file(logits, HERE / "peft_tiny_logits.safetensors")


def write_tokenizers() -> None:
    """Short hashes of the ids that `AutoTokenizer` gives, by family, kind of folder, and kind of strings."""
    hashes = {}
    for family, kind in FOLDERS:
        with tempfile.TemporaryDirectory() as folder:
            tokenizer = transformers.AutoTokenizer.from_pretrained(write_folder(Path(folder), family, kind))
        rows = {n: tokenizer(t, truncation=True, max_length=CUT)["input_ids"] for n, t in strings().items()}
        hashes[f"{family}: {kind}"] = {name: digest(ids) for name, ids in rows.items()}
    versions = {"transformers": transformers.__version__, "tokenizers": tokenizers.__version__}
    content = json.dumps({"versions": versions, "cut": CUT, "hashes": hashes}, indent=1)
    (HERE / "tokenizers.json").write_text(content + "\n")


@torch.inference_mode()
def write_tagger() -> None:
    """A tagger with a rank, an alpha and a bias of its own at some layers; one key of a pattern matches nothing."""
    config = peft.LoraConfig(
        task_type="TOKEN_CLS",
        r=3,
        target_modules=["query", "intermediate.dense"],
        bias="lora_only",
        rank_pattern={r"layer\.1\.attention\.self\.query": 2},
        alpha_pattern={
            "^encoder.layer.0.attention.self.query": 90,
            "^bert.encoder.layer.2.intermediate.dense": 20,
        },
    )
    model = tiny_peft(config, base=tiny_bert(3, transformers.BertForTokenClassification))
    model.save_pretrained(HERE / "peft_tagger")
    (HERE / "peft_tagger" / "README.md").unlink(missing_ok=True)
    logits = model(**tiny_inputs()).logits.numpy().copy()
    save_file({"logits": logits}, HERE / "peft_tagger" / "expected.safetensors")


@torch.inference_mode()
def write_fused() -> None:
    """ModernBERT's fused layers, with the head of a mean beside them."""
    config = peft.LoraConfig(
        task_type="FEATURE_EXTRACTION",
        r=4,
        target_modules=["Wqkv", "Wi", "attn.Wo"],
        use_rslora=True,
        rank_pattern={"layers.1.attn.Wqkv": 2},
        alpha_pattern={"Wi": 3},
    )
    model, folder = tiny_peft(config, base=family_model("modernbert")), HERE / "peft_fused"
    model.save_pretrained(folder)
    (folder / "README.md").unlink(missing_ok=True)
    head = {"weight": torch.randn(3, model.config.hidden_size), "bias": torch.randn(3)}
    save_file({name: value.numpy() for name, value in head.items()}, folder / "topgraft_head.safetensors")
    extra = {"labels": ["a", "b", "c"], "head": {"kind": "classification", "pooling": "mean"}}
    (folder / "topgraft.json").write_text(json.dumps(extra))
    means = np.stack([state.mean(axis=0) for state in family_states(model, token_rows())])
    logits = means @ head["weight"].numpy().T + head["bias"].numpy()
    save_file({"logits": logits}, folder / "expected.safetensors")


@torch.inference_mode()
def main(families: list[str]) -> None:
    if not families or "tokenizers" in families:
        write_tokenizers()
    for family in families or CONFIGS:
        if family != "tokenizers":
            family_golden(family)
    if families:
        return
    write_tiny()
    write_tagger()
    write_fused()
    inputs = encoded(sentences())
    hidden = transformers.AutoModel.from_pretrained(minilm_folder()).eval()(**inputs).last_hidden_state
    mask = inputs["attention_mask"]
    last = hidden[torch.arange(len(hidden)), mask.sum(1) - 1]
    mean = (hidden * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
    kept = {"first": hidden[:, 0], "last": last, "mean": mean}
    save_file({name: value.numpy().copy() for name, value in kept.items()}, HERE / "minilm_hidden.safetensors")
    logits = {}
    for name, settings in (("peft_lora", PLAIN), ("peft_rslora", RANK_STABILISED)):
        model = peft_model(settings)
        model.peft_config["default"].base_model_name_or_path = "all-MiniLM-L6-v2"
        model.save_pretrained(HERE / name)
        (HERE / name / "README.md").unlink(missing_ok=True)
        logits[name] = model(**inputs).logits.numpy().copy()
    save_file(logits, HERE / "peft_logits.safetensors")


if __name__ == "__main__":
    main(sys.argv[1:])
