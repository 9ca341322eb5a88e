"""The task of a PEFT folder: which model of transformers PEFT wrapped, and which head of ours computes its logits.

| transformers' model | logits | our head |
|---|---|---|
| `...ForSequenceClassification`, `...ForImageClassification` | of the pooled state | by `problem_type` |
| `...ForTokenClassification` | of each token's state | `token_tagging` |
| the encoder alone | none | beside the folder, in `topgraft_head.safetensors` |

The config says it by `task_type`, or where that is null by the class in `auto_mapping`. `problem_type` is a field of
the wrapped model's config.json. Where nobody says it, transformers takes one output for regression, several for
classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np

from adapters.export.peft.codec import Fields, Folder
from adapters.export.peft.folder import EXTRA_FILE, HEAD, base_fields, extra_fields, label_names
from adapters.export.peft.layers import PREFIX, WEIGHTS, Tensors, transposed
from adapters.export.problems import PROBLEMS, Problem, assumed_problem, head_of
from adapters.labels.tagging import OUTSIDE, not_bio
from adapters.model import GraftModel
from adapters.specs import Head, TokenTagging
from backbone.errors import InputError, shown
from backbone.exchange.importing import read_safetensors
from backbone.families import Family
from backbone.records import decode, encode
from backbone.trees import Params

CLASSIFIER = PREFIX + "classifier."

Task: TypeAlias = Literal["SEQ_CLS", "TOKEN_CLS", "FEATURE_EXTRACTION"]
CLASSES: dict[str, Task] = {  # ends of the names of transformers' classes
    "ForSequenceClassification": "SEQ_CLS",
    "ForImageClassification": "SEQ_CLS",
    "ForTokenClassification": "TOKEN_CLS",
    "Model": "FEATURE_EXTRACTION",
}


@dataclass(frozen=True)
class ImportedHead:
    """The head of a folder."""

    task: Task
    head: Head
    params: Params  # kernel [F,C], bias [C]
    names: tuple[str, ...]  # names of the outputs
    notes: tuple[str, ...] = ()  # what was assumed, and how to say otherwise


def task_of(folder: Folder, family: Family, classified: bool, images: bool) -> Task:
    """Returns the task of a folder; `classified` says whether it holds a classifier.

    Raises InputError naming a task that no head of ours computes, or that the config does not tell.
    """
    task, where = folder.config.get("task_type"), f"{folder.file}: task_type"
    if task in ("SEQ_CLS", "TOKEN_CLS", "FEATURE_EXTRACTION"):
        if task == "FEATURE_EXTRACTION" and classified:
            raise InputError(f"{where}: FEATURE_EXTRACTION has no classifier, but the folder holds one; write SEQ_CLS")
        known: Task = task
        return known
    if task is not None:
        raise InputError(f"{where}: {task!r} is not supported; one of SEQ_CLS, TOKEN_CLS, FEATURE_EXTRACTION")
    name = (folder.config.get("auto_mapping") or {}).get("base_model_class")
    if name is None and classified and not images:
        raise InputError(
            f"{where}: null, and auto_mapping names no class; write SEQ_CLS if the classifier reads texts, TOKEN_CLS "
            "if it reads words"
        )
    if name is None:
        return "SEQ_CLS" if classified else "FEATURE_EXTRACTION"
    for end, meant in CLASSES.items():
        if str(name).endswith(end):
            return meant
    raise InputError(f"{folder.file}: auto_mapping: {name!r} is not supported; one of ...{', ...'.join(CLASSES)}")


def read_head(
    folder: Folder,
    left: Tensors,
    family: Family,
    width: int,
    *,
    images: bool,
    labels: str | None,
    problem: Problem | None,
) -> ImportedHead:
    """Returns the head, made of the tensors that the method left over; removes them from `left`.

    Raises InputError naming what a head of ours cannot be, what is missing and how to get it.
    """
    classified = any(key.startswith(CLASSIFIER) for key in left)
    task = task_of(folder, family, classified, images)
    extra = extra_fields(folder.path)
    if task == "FEATURE_EXTRACTION" and (folder.path / HEAD).is_file():
        left |= {CLASSIFIER + name: value for name, value in read_safetensors(folder.path / HEAD).items()}
    _require_single_layer(folder, task, family, left)
    weight, bias = left.pop(CLASSIFIER + "weight", None), left.pop(CLASSIFIER + "bias", None)
    if weight is None or bias is None:
        raise InputError(_headless(folder, task))
    if weight.shape != (len(bias), width) or bias.ndim != 1:
        raise InputError(
            f"{folder.path / WEIGHTS}: {CLASSIFIER}weight {weight.shape} and bias {bias.shape} do not fit states of "
            f"width {width}"
        )
    base = base_fields(folder)
    names = label_names(labels, _noted_labels(folder, extra) or _names_of(base, len(bias)), len(bias))
    params: Params = {"kernel": np.ascontiguousarray(weight.T), "bias": bias}
    if problem is not None and ("head" in extra or task != "SEQ_CLS"):
        said = EXTRA_FILE if "head" in extra else f"task_type {task}"
        raise InputError(f"--problem-type: {said} says what the head of {folder.path} is")
    if "head" in extra:
        return ImportedHead(task, _own_head(folder, task, family, extra["head"]), params, names)
    if task == "FEATURE_EXTRACTION":
        raise InputError(f"{folder.path / EXTRA_FILE}: head: missing; it says how the states are pooled for {HEAD}")
    if task == "TOKEN_CLS":
        return ImportedHead(task, _tagger(folder, names), params, names)
    head, notes = _row_head(folder, family, len(bias), problem, base)
    return ImportedHead(task, head, params, names, notes)


def _noted_labels(folder: Folder, extra: Fields) -> tuple[str, ...]:
    """Returns the labels that Topgraft noted; raises InputError unless they are texts."""
    noted = extra.get("labels", [])
    if not isinstance(noted, list) or not all(isinstance(name, str) for name in noted):
        raise InputError(f"{folder.path / EXTRA_FILE}: labels: {shown(noted)}, expected a list of texts")
    return tuple(noted)


def _own_head(folder: Folder, task: Task, family: Family, settings: Any) -> Head:
    """Returns the head that Topgraft noted; raises InputError unless it is one of the task."""
    where = f"{folder.path / EXTRA_FILE}: head"
    head = decode(Head, {"kind": "classification"} | settings if isinstance(settings, dict) else settings, where)
    fits = {"SEQ_CLS": head.pooling == family.task_pooling, "TOKEN_CLS": head.one_answer_per == "word"}
    if not fits.get(task, True):
        raise InputError(f"{where}: {head.kind} with pooling {head.pooling} is not what task_type {task} computes")
    return head


def _require_single_layer(folder: Folder, task: Task, family: Family, left: Tensors) -> None:
    """Raises InputError where transformers' head is more than the one dense layer that ours is."""
    single = {"SEQ_CLS": bool(family.task_pooling), "TOKEN_CLS": family.task_tagging, "FEATURE_EXTRACTION": True}[task]
    if not single:
        ours = "add topgraft_head.safetensors with weight and bias of a head of one layer, or train the head here"
        raise InputError(
            f"{folder.file}: task_type: {task}: the classifier of transformers' {family.tag} is no single layer; save "
            f"the adapter of the plain encoder (FEATURE_EXTRACTION) and {ours}"
        )


def _headless(folder: Folder, task: Task) -> str:
    if task == "FEATURE_EXTRACTION":
        remedy = f"put weight [C,F] and bias [C] beside it, in {HEAD}, and its settings in {EXTRA_FILE}"
        return f"{folder.path}: an adapter of the plain encoder without a head: a graft needs its head; {remedy}"
    return (
        f"{folder.path / WEIGHTS}: holds no {CLASSIFIER}weight and bias: a graft needs its head; "
        f"save it in PEFT with task_type {task} or modules_to_save=['classifier']"
    )


def _names_of(base: Fields, count: int) -> tuple[str, ...]:
    """Returns the names that the wrapped model's config gives to as many outputs; () without them."""
    names = base.get("id2label")
    if not isinstance(names, dict) or len(names) != count:
        return ()
    ordered = [names.get(str(number)) for number in range(count)]
    return tuple(map(str, ordered)) if all(isinstance(name, str) and name for name in ordered) else ()


def _tagger(folder: Folder, names: tuple[str, ...]) -> TokenTagging:
    if not_bio(names) or OUTSIDE not in names:
        raise InputError(
            f"{folder.file}: task_type: TOKEN_CLS: a tagger needs the names of its BIO tags, in the order of the "
            f"classifier's outputs (--labels O,B-PER,I-PER); these are {', '.join(names[:6])}"
        )
    return TokenTagging()


def _row_head(
    folder: Folder, family: Family, outputs: int, problem: Problem | None, base: Fields
) -> tuple[Head, tuple[str, ...]]:
    """Returns the head of one vector a row, and what was assumed about it."""
    stated = problem or base.get("problem_type")
    if stated is not None and stated not in PROBLEMS:
        raise InputError(f"config.json: problem_type: {stated!r} is not supported; one of {', '.join(PROBLEMS)}")
    kind = stated or assumed_problem(outputs)
    if kind == "regression" and outputs > 1:
        raise InputError(
            f"{folder.path}: problem_type: regression with {outputs} outputs; a graft's head gives one number"
        )
    if kind == "single_label_classification" and outputs == 1:
        raise InputError(f"{folder.path}: problem_type: {kind} with one output; a classifier needs at least two")
    head = head_of(kind, family.task_pooling or "mean", outputs)
    assert head is not None, "the number of outputs fits"
    notes = () if stated else (f"problem_type: {kind} assumed, since the folder does not say it (--problem-type)",)
    return head, notes


@dataclass(frozen=True)
class ExportedHead:
    """The head as PEFT has it."""

    task: Task
    tensors: Tensors  # weight [C,F], bias [C]
    extra: Fields  # what PEFT has no field for

    @property
    def inside(self) -> bool:
        """Returns whether transformers has a model with this head, so that it lies inside the folder."""
        return self.task != "FEATURE_EXTRACTION"


def write_head(model: GraftModel, params: Params, family: Family, max_tokens: int) -> ExportedHead:
    """Returns the head of a graft for PEFT; a regression's logit is then in the target's own units."""
    head, kernel, bias = model.head.in_own_units(np.asarray(params["kernel"]), np.array(params["bias"], np.float32))
    weight = transposed(kernel)
    task: Task = "FEATURE_EXTRACTION"
    if head.one_answer_per == "word":
        task = "TOKEN_CLS" if family.task_tagging else task
    elif head.pooling == family.task_pooling:
        task = "SEQ_CLS"
    extra = {"labels": list(model.labels), "head": encode(head), "max_tokens": max_tokens}
    return ExportedHead(task, {"weight": weight, "bias": bias}, extra)
