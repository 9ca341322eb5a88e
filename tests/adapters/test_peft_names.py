"""PEFT's rules for names: which layers a config chooses, and which rank or alpha each has.

The expected answers are written by hand from PEFT's documentation; `tests/peers` asks PEFT itself.
"""

from __future__ import annotations

import pytest

from adapters.export.peft.names import Chosen, Pattern
from backbone.errors import InputError

NAMES = [
    f"bert.encoder.layer.{layer}.{part}"
    for layer in (0, 1, 10)
    for part in ("attention.self.query", "attention.self.value", "attention.output.dense", "output.dense")
]


def chosen(**config) -> set[str]:
    choice = Chosen.of({"target_modules": ["query"]} | config, "c.json", ())
    return {name.removeprefix("bert.encoder.layer.") for name in NAMES if choice.chooses(name)}


QUERIES = {f"{layer}.attention.self.query" for layer in (0, 1, 10)}
VALUES = {f"{layer}.attention.self.value" for layer in (0, 1, 10)}


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({}, QUERIES),
        ({"target_modules": ["uery"]}, set()),
        ({"target_modules": ["0.attention.self.query"]}, {"0.attention.self.query"}),
        ({"target_modules": ["1.output.dense"]}, {"1.output.dense"}),
        ({"target_modules": "query"}, set()),
        ({"target_modules": ".*query"}, QUERIES),
        ({"target_modules": "^bert.*query$"}, QUERIES),
        ({"target_modules": "^encoder.*query$"}, set()),
        ({"target_modules": "(?i).*QUERY"}, QUERIES),
        ({"target_modules": "ALL-linear", "exclude_modules": ["dense"]}, QUERIES | VALUES),
        ({"exclude_modules": ["layer.10.attention.self.query"]}, QUERIES - {"10.attention.self.query"}),
        ({"exclude_modules": "layer"}, QUERIES),
        ({"exclude_modules": r".*layer\.1.*"}, {"0.attention.self.query"}),
        ({"modules_to_save": ["self"]}, set()),
        ({"modules_to_save": ["classifier", "sel"]}, QUERIES),
        ({"layers_to_transform": 1}, {"1.attention.self.query"}),
        ({"layers_to_transform": 0}, {"0.attention.self.query"}),
        ({"layers_to_transform": []}, QUERIES),
        ({"layers_to_transform": [0, 10], "layers_pattern": "layer"}, QUERIES - {"1.attention.self.query"}),
        ({"layers_to_transform": [0], "layers_pattern": ["blocks"]}, set()),
        ({"layers_to_transform": [0], "target_modules": "^bert.*query$"}, QUERIES),
        (
            {"layers_to_transform": [0], "target_modules": ["query", "bert.encoder.layer.10.output.dense"]},
            {"0.attention.self.query", "10.output.dense"},
        ),
    ],
)
def test_layers_are_chosen_as_peft_chooses_them(config, expected):
    assert chosen(**config) == expected


@pytest.mark.parametrize("lists", [None, "layers", ["blocks", "layers"]])
def test_the_number_of_a_layer_is_the_first_one_of_its_name(lists):
    """So PEFT does it, where a layer holds a list of its own."""
    config = {"target_modules": ["up"], "layers_to_transform": 2, "layers_pattern": lists}
    choice = Chosen.of(config, "c.json", ())
    names = ("model.layers.2.experts.5.up", "model.layers.5.layers.2.up", "model.layers.12.up")
    assert [choice.chooses(name) for name in names] == [True, False, False]


@pytest.mark.parametrize(
    ("patterns", "expected"),
    [
        ({}, {}),
        ({"query": 3}, dict.fromkeys(QUERIES, 3)),
        ({"uery": 3, "self": 4}, {}),
        ({"^encoder.layer.0.attention.self.query": 80}, {}),
        ({"^bert.encoder.layer.0.attention.self.query": 80}, {"0.attention.self.query": 80}),
        ({"layer.1.attention.self.query": 3}, {"1.attention.self.query": 3}),
        ({".*value": 5, "self.value": 7, "query": 2}, dict.fromkeys(VALUES, 5) | dict.fromkeys(QUERIES, 2)),
        ({"self.value": 7, ".*value": 5}, dict.fromkeys(VALUES, 7)),
        ({"query|layer.10.output.dense": 4}, dict.fromkeys([*QUERIES, "10.output.dense"], 4)),
    ],
)
def test_the_first_expression_that_matches_an_end_decides(patterns, expected):
    pattern = Pattern.of({"alpha_pattern": patterns, "lora_alpha": 9}, "alpha_pattern", "lora_alpha", 8, "c.json")
    found = {name.removeprefix("bert.encoder.layer."): pattern(name) for name in NAMES}
    assert {name: number for name, number in found.items() if number != 9} == expected
    unmatched = [key for key in patterns if any(repr(key) in note for note in pattern.unmatched(NAMES))]
    assert bool(unmatched) == (not expected and bool(patterns))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"target_modules": None}, r"c\.json: target_modules: expected names of layers; PEFT has no default"),
        ({"target_modules": 3}, r"target_modules: expected a text or a list of texts, got 3"),
        ({"target_modules": "(query"}, r"target_modules: '\(query' is no regular expression"),
        ({"exclude_modules": "*"}, r"exclude_modules: '\*' is no regular expression"),
        ({"modules_to_save": "classifier"}, "modules_to_save: expected a list of names, got 'classifier'"),
        ({"modules_to_save": ["("]}, r"modules_to_save: '\(' is no regular expression"),
        ({"layers_to_transform": ["1"]}, "layers_to_transform: expected numbers of layers"),
        ({"layers_pattern": "["}, r"layers_pattern: '\[' is no regular expression"),
    ],
)
def test_a_choice_that_peft_could_not_make_is_refused(config, message):
    with pytest.raises(InputError, match=message):
        chosen(**config)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"rank_pattern": ["query"]}, r"c\.json: rank_pattern: expected an object"),
        ({"rank_pattern": {"(": 2}}, r"rank_pattern: '\(' is no regular expression"),
        ({"rank_pattern": {"query": 0}}, "rank_pattern: 'query': expected a positive number, got 0"),
        ({"rank_pattern": {"query": "2"}}, "rank_pattern: 'query': expected a positive number, got '2'"),
        ({"r": -1}, "r: expected a positive number, got -1"),
        ({"r": True}, "r: expected a positive number, got True"),
    ],
)
def test_a_pattern_that_peft_could_not_read_is_refused(config, message):
    with pytest.raises(InputError, match=message):
        Pattern.of(config, "rank_pattern", "r", 8, "c.json")


def test_a_choice_and_the_tensors_must_agree():
    choice = Chosen.of({"target_modules": ["query"]}, "c.json", ())
    choice.require([name for name in NAMES if name.endswith("query")], NAMES)
    with pytest.raises(
        InputError, match=r"target_modules: .*layer\.10\.attention\.self\.query: chosen, but the folder has"
    ):
        choice.require([name for name in NAMES if name.endswith("query")][:2], NAMES)
    with pytest.raises(InputError, match=r"self\.value: not chosen, so PEFT leaves its tensors"):
        choice.require([name for name in NAMES if name.endswith("query")] + [NAMES[1]], NAMES)
