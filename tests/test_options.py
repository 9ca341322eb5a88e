"""Options that make no sense are refused by the parser: status 2, the option and what is asked for, JSON if wanted."""

from __future__ import annotations

import pytest

import topgraft
from tests.tiny import as_json

REFUSED = [
    ("audit-labels c --max-suspects -3", "--max-suspects: must be a whole number, at least 0, got -3"),
    ("audit-labels c --max-suspects some", "--max-suspects: must be a whole number, at least 0, got 'some'"),
    ("retrain c --lease nan", "--lease: must be a finite number in (0, inf), got 'nan'"),
    ("retrain c --lease 0", "--lease: must be a finite number in (0, inf), got '0'"),
    ("retrain c --wait -1", "--wait: must be a finite number in [0, inf), got '-1'"),
    ("retrain c --wait inf", "--wait: must be a finite number in [0, inf), got 'inf'"),
    ("retrain c --max-price nan", "--max-price: must be a finite number"),
    ("retrain c --all --workers 0", "--workers: must be a whole number, at least 1, got 0"),
    ("cache gc --max-gib nan", "--max-gib: must be a finite number"),
    ("predict g --text x --top 0", "--top: must be a whole number, at least 1"),
    ("export g --format jax --out o --batch 0", "--batch: must be a whole number, at least 1"),
    ("combine a b --out o --rank -1", "--rank: must be a whole number, at least 0"),
    ("combine a b --out o --density nan", "--density: must lie in (0, 1], got 'nan'"),
    ("combine a b --out o --density 1.5", "--density: must lie in (0, 1], got '1.5'"),
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
    ("train", "the following arguments are required: config"),
    ("trian c", "invalid choice: 'trian'"),
]


@pytest.mark.parametrize(("words", "message"), REFUSED, ids=[words for words, _ in REFUSED])
def test_nonsense_is_refused(words, message, capsys):
    assert topgraft.main([*words.split(), "--json"]) == 2
    out, err = capsys.readouterr()
    assert message in err
    assert as_json(out) == {"error": err.strip().splitlines()[-1], "exit": 2}


@pytest.mark.parametrize("verb", ["promote", "rollback"])
@pytest.mark.parametrize("blank", ["", "  "])
def test_a_reason_is_a_reason(verb, blank, capsys):
    words = ["registry", verb, "task", *(["1"] if verb == "promote" else []), "--reason", blank]
    assert topgraft.main(words) == 2
    out, err = capsys.readouterr()
    assert "--reason: must not be blank; say it in a few words" in err
    assert out == ""
