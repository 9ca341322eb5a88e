"""A model card in Hugging Face's form: `README.md` with metadata in front.

Source: the model card specification of the Hub (huggingface/hub-docs, modelcard.md, model-cards-co2.md). The metadata
are YAML in ASCII that versions 1.1 and 1.2 read alike. Names and labels are text, never markup. Licence, language and
data sets of the Hub are unknown to a graft, so their fields are left out, and the card says so.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping

from adapters.export.documents.document import Document
from adapters.export.documents.facts import JOULES_PER_WH, Facts, spread
from adapters.export.documents.figures import figure

PIPELINES = {  # pipeline tags of the Hub, by what an input is and by the kind of the head
    ("text", "classification"): "text-classification",
    ("text", "multi_label"): "text-classification",
    ("text", "regression"): "text-classification",
    ("text", "token_tagging"): "token-classification",
    ("image", "classification"): "image-classification",
}
UNKNOWN = "Licence, language, training place and hardware: a graft does not record them; add them by hand."

_CODE = re.compile(r"`[\w:.-]+`")  # an id
_MARKUP = re.compile(r"[\\`*\[\]<>&|~]")  # what begins markup inside a line
_ENTITIES = {"<": "&lt;", ">": "&gt;", "&": "&amp;"}


class Card(Document, tag="card"):
    """A model card with compute, time and energy of the training, and energy for each 1,000 answers."""

    about = "Hugging Face model card"

    def files(self, facts: Facts) -> Mapping[str, str]:
        head = "".join(f"{key}: {_yaml(value)}\n" for key, value in metadata(facts).items())
        return {"README.md": f"---\n{head}---\n\n" + "\n".join(_body(facts)) + "\n"}


def metadata(facts: Facts) -> dict[str, object]:
    """Returns the fields of the card's front matter."""
    manifest = facts.manifest
    values: dict[str, object] = {"library_name": "topgraft", "tags": ["topgraft", *(m.tag for m in manifest.methods)]}
    task = PIPELINES.get((facts.takes, manifest.head.kind))
    if task is not None:
        values["pipeline_tag"] = task
    scores = facts.metrics()
    if scores:
        values["metrics"] = sorted({metric for _, metric, _ in scores})
    if scores and task is not None:
        splits = list(dict.fromkeys(split for split, _, _ in scores))
        values["model-index"] = [{"name": manifest.name, "results": [_result(facts, task, s) for s in splits]}]
    if facts.training is not None and facts.training_grams is not None:
        values["co2_eq_emissions"] = {
            "emissions": facts.training_grams,
            "source": f"{facts.training.joules.quality} joules of the training ({facts.training.joules.source}), times "
            f"{facts.carbon.intensity!r} g CO2eq/kWh",
            "training_type": "fine-tuning",
        }
    return values


def _result(facts: Facts, task: str, split: str) -> dict[str, object]:
    metrics = [{"type": metric, "value": value} for s, metric, value in facts.metrics() if s == split]
    name = facts.manifest.name
    dataset = {"type": name, "name": name, "split": split, "revision": facts.manifest.training.data.get(split)}
    return {"task": {"type": task}, "dataset": {k: v for k, v in dataset.items() if v}, "metrics": metrics}


def _body(facts: Facts) -> Iterator[str]:
    """Yields the lines below the metadata."""
    manifest = facts.manifest
    yield f"# {_escaped(manifest.name)}\n"
    yield f"A graft for Topgraft: adapter and head on a frozen backbone. Content id `{manifest.content_id}`.\n"
    yield "## Model details\n"
    yield from _table(
        ("what", "value"),
        [
            ("input", facts.takes),
            ("head", manifest.head.kind),
            ("labels", f"{len(manifest.labels)}: {', '.join(manifest.labels)}"),
            ("methods", ", ".join(method.tag for method in manifest.methods)),
            ("parameters of the graft", f"{facts.parameters}"),
            ("bytes of the graft", f"{facts.graft_bytes}"),
            ("longest input, tokens", f"{manifest.max_tokens}"),
            ("backbone, weights", f"`{manifest.weights_id}`"),
            ("backbone, preprocessing", f"`{manifest.preprocessing_id}`"),
            ("precisions", ", ".join(manifest.variants)),
        ],
    )
    yield "\n## Training data\n"
    yield from _table(("split", "fingerprint"), [(s, f"`{p}`") for s, p in manifest.training.data.items()])
    yield "\n## Evaluation\n"
    yield from _table(("split", "metric", "value"), [(s, m, f"{v!r}") for s, m, v in facts.metrics()])
    yield "\n## Compute, time and energy\n"
    yield from _table(("what", "value", "quality"), list(_costs(facts)))
    yield "\n## Not recorded\n"
    yield from (f"- {_escaped(sentence)}" for sentence in (*facts.absent(), UNKNOWN))
    yield "\n## Software\n"
    yield from _table(("package", "version"), list(manifest.training.versions.items()))


def _costs(facts: Facts) -> Iterator[tuple[str, str, str]]:
    if (training := facts.training) is not None:
        yield "training, seconds", figure(training.wall_seconds), training.quality
        yield "training, CPU seconds", figure(training.cpu_seconds), training.quality
        if facts.flops is not None:
            yield "training, FLOP", figure(facts.flops), "counted"
        joules = training.joules
        if joules.value is not None:
            yield "training, joules", f"{joules.value!r}{spread(joules)}", f"{joules.quality}: {joules.source}"
    if facts.training_grams is not None:
        yield "training, g CO2eq", figure(facts.training_grams), "joules times the given carbon intensity"
    if (query := facts.query) is not None:
        watt_hours = 1000 * query.joules / JOULES_PER_WH
        yield f"1,000 answers of {query.tokens} tokens, Wh", figure(watt_hours), query.quality


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> Iterator[str]:
    if not rows:
        yield "Nothing is recorded."
        return
    yield f"| {' | '.join(head)} |"
    yield "|" + "---|" * len(head)
    for row in rows:
        yield f"| {' | '.join(cell if _CODE.fullmatch(cell) else _escaped(cell) for cell in row)} |"


def _escaped(text: str) -> str:
    """Returns a text of one line that Markdown and HTML show as it is; what is not printable is an escape."""
    shown = "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in text)
    return _MARKUP.sub(lambda match: _ENTITIES.get(match[0], f"\\{match[0]}"), shown)


def _yaml(value: object) -> str:
    """Returns a value as YAML 1.1 and 1.2 read it, in ASCII."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_yaml(key)}: {_yaml(one)}" for key, one in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(_yaml, value)) + "]"
    if isinstance(value, float):
        digits, e, exponent = figure(value).partition("e")
        return f"{digits if '.' in digits else f'{digits}.0'}{e}{exponent}"
    return f'"{"".join(map(_yaml_character, value))}"' if isinstance(value, str) else json.dumps(value)


def _yaml_character(one: str) -> str:
    """Returns a character inside the double quotes of YAML."""
    if one in '"\\':
        return f"\\{one}"
    return one if one.isascii() and one.isprintable() else f"\\U{ord(one):08x}"
