"""The classifier of a full fine-tune as a graft, where its trunk is a known backbone.

    import_classifier("path/to/fine-tune", "backbones/bert", "grafts/topics")

A fine-tune in the Hugging Face layout holds a trunk and a classifier. Where the trunk's weights are those of the
backbone to the bit, the classifier is a head on it. Where they differ, the trunk is a backbone of its own: importing it
by `import-backbone` and naming that one keeps the classifier too. The pooler counts only where the head reads it.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from adapters.artefact.manifest import Training
from adapters.artefact.write import save_graft
from adapters.export.peft.folder import label_names, require_distinct
from adapters.export.problems import Problem, assumed_problem, head_of
from adapters.labels.tagging import not_bio
from adapters.machine import ready_to_compute
from adapters.model import GraftModel
from adapters.specs import Head, Pooling, Probe, TokenTagging
from backbone.errors import InputError
from backbone.exchange.importing import Published, read_published
from backbone.precisions.record import recorded
from backbone.preprocessing import TextPreprocessing
from backbone.storage import Backbone, in_precision, load_backbone
from backbone.trees import flatten

KERNEL, BIAS = "classifier.weight", "classifier.bias"


@dataclass(frozen=True)
class ImportedClassifier:
    """The result of an import."""

    path: str  # folder of the graft
    content_id: str  # content_id of the graft
    head: str  # kind of the head
    labels: tuple[str, ...]  # names of the outputs
    weights_id: str  # weights that trunk and backbone have in common


def import_classifier(
    source: str | Path,
    backbone: str | Path,
    out: str | Path,
    *,
    labels: str | None = None,
    problem: Problem | None = None,
    max_tokens: int | None = None,
) -> ImportedClassifier:
    """Writes the classifier of the fine-tune `source` as a graft on `backbone`, into the new folder `out`.

    `labels` are names, comma separated, or a file with one name a line. `problem` is transformers' `problem_type`.
    Without them those of config.json are taken. `max_tokens` is the length of the longest text, by default the
    backbone's. Raises InputError where trunk or tokenizer are not the backbone's, or where no head of ours is that
    classifier.
    """
    ready_to_compute()
    source, out = Path(source), Path(out)
    read = read_published(source)
    head, kernel, bias = _head(source, read, problem)
    trunk = load_backbone(backbone, precision="float32")
    longest = trunk.preprocessing.max_tokens
    if max_tokens is not None and not 1 <= max_tokens <= longest:
        raise InputError(f"--max-tokens: must lie in 1..{longest}, the backbone's longest input, got {max_tokens}")
    _require_trunk(source, read, trunk, str(backbone), pooler=head.pooling == "pooler")
    names = _published_names(source, read, len(bias)) if labels is None else label_names(labels, (), len(bias))
    if head.one_answer_per == "word" and (wrong := not_bio(names)):
        raise InputError(f"{source}: {wrong[0]!r} is no BIO tag (O, B-TYPE or I-TYPE); name the tags with --labels")
    trunk = in_precision(trunk, recorded(trunk.base_id))
    model = GraftModel(trunk.network, (Probe(),), head, names)
    manifest = save_graft(
        out,
        model,
        {"adapter": {Probe.tag: {}}, "head": {"kernel": kernel, "bias": bias}},
        trunk,
        name=source.resolve().name,
        max_tokens=max_tokens or longest,
        training=Training(
            config={"imported_from": "classifier", "backbone_path": str(Path(backbone).resolve())},
            seeds={},
            data={},
            metrics={},
            costs={},
            versions={},
        ),
    )
    return ImportedClassifier(str(out), manifest.content_id, head.kind, names, trunk.weights_id)


def _head(source: Path, read: Published, problem: Problem | None) -> tuple[Head, np.ndarray, np.ndarray]:
    """Returns the head of a fine-tune, its kernel [D,C] and bias [C]; `problem` beats the one of config.json.

    Raises InputError unless its classifier is a single dense layer on what a head of ours reads.
    """
    config = source / "config.json"
    named = read.config.get("architectures")
    architecture = str(named[0]) if isinstance(named, list) and named else ""
    tokens = architecture.endswith("ForTokenClassification")
    if not tokens and not architecture.endswith(("ForSequenceClassification", "ForImageClassification")):
        raise InputError(
            f"{config}: architectures: {architecture!r} has no classifier that a graft can hold; a model for "
            f"sequence, image or token classification has"
        )
    if tokens and problem:
        raise InputError(f"--problem-type: {architecture} in {config} says what the head is; leave the option out")
    weight, bias = read.outside.get(KERNEL), read.outside.get(BIAS)
    others = sorted({*read.outside} - {KERNEL, BIAS})
    pooling = read.family.task_pooling
    if weight is None or bias is None or others or not (read.family.task_tagging if tokens else pooling):
        holds = ", ".join(others[:3] or sorted(read.outside)) or "none"
        raise InputError(
            f"{source}: the classifier of {architecture} is no single dense layer on the pooled or the tokens' states "
            f"(its tensors: {holds}); import the trunk with import-backbone and train a head on it"
        )
    if weight.shape != (len(bias), read.spec.width):
        raise InputError(f"{source}: {KERNEL} has shape {weight.shape}, expected {(len(bias), read.spec.width)}")
    if not (np.isfinite(weight).all() and np.isfinite(bias).all()):
        raise InputError(f"{source}: {KERNEL} or {BIAS} holds values that are not finite; fetch another copy")
    stated = problem or read.config.get("problem_type")
    head = TokenTagging() if tokens else _row_head(config, stated, pooling or "mean", len(bias))
    return head, np.ascontiguousarray(weight.T), bias


def _row_head(config: Path, stated: object, pooling: Pooling, outputs: int) -> Head:
    """Returns the head of a `problem_type`, or of the one that transformers assumes."""
    problem = stated or assumed_problem(outputs)
    if (head := head_of(problem, pooling, outputs)) is not None:
        return head
    raise InputError(f"{config}: problem_type: {problem!r} with {outputs} outputs is not supported; see --problem-type")


def _published_names(source: Path, read: Published, outputs: int) -> tuple[str, ...]:
    """Returns the names in `id2label`, or LABEL_0, LABEL_1, ... without it."""
    names = read.config.get("id2label")
    if names is None:
        return tuple(f"LABEL_{number}" for number in range(outputs))
    ordered = [names.get(str(number)) for number in range(outputs)] if isinstance(names, dict) else []
    if len(ordered) != outputs or len(names) != outputs or not all(isinstance(n, str) and n for n in ordered):
        raise InputError(
            f"{source / 'config.json'}: id2label: expected a name for each of {outputs} outputs, got {names!r:.80}; "
            f"name them with --labels"
        )
    published = tuple(map(str, ordered))
    require_distinct(published, f"{source / 'config.json'}: id2label")
    return published


def _require_trunk(source: Path, read: Published, trunk: Backbone, backbone: str, *, pooler: bool) -> None:
    """Raises InputError unless weights and tokenizer are the backbone's, but for a pooler that nobody reads."""
    remedy = (
        f"it is a backbone of its own: `topgraft import-backbone {source} --out TRUNK`, then "
        f"`topgraft import-graft {source} --backbone TRUNK` keeps its classifier"
    )
    spec = read.spec if pooler else dataclasses.replace(read.spec, pooler=trunk.spec.pooler)
    fields = [name for name in spec.identity() if getattr(spec, name) != getattr(trunk.spec, name, None)]
    if spec != trunk.spec:
        raise InputError(
            f"{source}: its trunk is not {backbone}: the architectures differ ({', '.join(fields) or 'kind'}); {remedy}"
        )
    theirs, ours = flatten(read.params), flatten(trunk.params)
    compared = [path for path in ours if pooler or not path.startswith("pooler.")]
    changed = [path for path in compared if not np.array_equal(theirs[path], np.asarray(ours[path]))]
    if changed:
        raise InputError(
            f"{source}: its trunk is not {backbone}: {len(changed)} of {len(compared)} tensors differ, the first is "
            f"{changed[0]}: fine-tuning changed them; {remedy}"
        )
    if _plain(read.preprocessing) != _plain(trunk.preprocessing):
        raise InputError(f"{source}: its tokenizer or image transform is not that of {backbone}; {remedy}")


def _plain(preprocessing: object) -> object:
    """Returns what decides the ids of a text but the longest input; an image transform as it is."""
    if isinstance(preprocessing, TextPreprocessing):
        return preprocessing.uncut().to_str(), preprocessing.cuts_left, preprocessing.fill
    return preprocessing
