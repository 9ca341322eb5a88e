"""A graft on a trunk that is lean in every way: trained above a cached, frozen prefix, read again, exported, served."""

from __future__ import annotations

import jax
import numpy as np

from adapters.export.compiled import export_jax
from adapters.graft import load_graft
from serving.bank import Bank, Envelope
from tests.command import call
from tests.grafts import nonzero
from tests.tiny import as_json, rows, write_config


def test_a_graft_above_a_block_that_shares_its_weights_with_a_frozen_one(compact_path, tmp_path, capsys):
    config = write_config(tmp_path / "config.py", compact_path, tmp_path, optimizer="Optimizer(learning_rate=5e-3)")
    options = ("--set", "plan.stages=top(1)", "--set", "epochs=2", "--set", "adapter.sites=attention/*,mlp/*")
    status, out, err = call("train", config, *options, "--workdir", "run", "--json", "--quiet", capsys=capsys)
    assert status == 0, err
    result = as_json(out)
    assert result["metrics"]["test"]["accuracy"] > 0.5, "of three classes, on random weights"
    graft = load_graft("run/graft")
    assert set(graft.params["adapter"]["lora"]) == {"3"}, "block 2 below it has the same weights, and no adapter"
    assert load_graft("run/graft").backbone.weights_id == graft.manifest.weights_id
    status, out, _ = call("evaluate", "run/graft", "--json", "--quiet", capsys=capsys)
    assert as_json(out)["metrics"] == result["metrics"], "states above the cached prefix are those of a whole pass"
    status, out, _ = call("plan", config, *options, "--json", "--quiet", capsys=capsys)
    assert status == 0

    texts = [text for text, _ in rows(6, seed=4)]
    export_jax("run/graft", tmp_path / "out", buckets=(8, 48), batch=2)
    status, _, err = call("export", "run/graft", "--format", "peft", "--out", "peft", capsys=capsys)
    assert (status, "blocks share 2 sets of layers" in err) == (2, True), err
    status, out, _ = call("profile", "run/graft", "--json", "--quiet", capsys=capsys)
    profile = as_json(out)
    assert profile["block_parameters"] < profile["backbone_parameters"] / 2

    (group,) = Envelope.around([graft.model], slots=2).groups
    bank = Bank(graft.backbone.network, group, labels=4)
    bank.write(1, bank.fit(graft.model, nonzero(graft.model, 1)).leaves)
    bank.write(2, bank.fit(graft.model, graft.params).leaves)
    tokens = graft.backbone.preprocessing.encode(texts[:1], 48)[0]
    inputs = {"ids": np.stack([tokens, tokens]), "mask": np.ones((2, len(tokens)), bool)}
    found = bank.model.logits(graft.backbone.params, bank.leaves, inputs, slots=np.array([2, 0], np.int32))
    wanted = jax.jit(graft.model.logits)(graft.backbone.params, graft.params, inputs)
    np.testing.assert_allclose(found[0, :3], wanted[0], atol=2e-5)
    assert not np.any(found[1])
