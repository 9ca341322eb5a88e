"""Every family's published layout against transformers, live, through a whole import; run by `make test-peers`."""

from __future__ import annotations

import json

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the peers environment has PyTorch; see make test-peers")
transformers = pytest.importorskip("transformers", reason="the peers environment has PyTorch; see make test-peers")

from backbone.buckets import pad  # noqa: E402
from backbone.exchange.importing import import_backbone  # noqa: E402
from backbone.storage import load_backbone  # noqa: E402
from tests.families import CONFIGS, TEXT, images, token_rows  # noqa: E402
from tests.goldens import make as goldens  # noqa: E402
from tests.tiny import SPEC, tokenizer_json  # noqa: E402

CHANGES = {
    family: {"vocab_size": SPEC.vocabulary, "hidden_act": "relu"} if family in TEXT else {"hidden_act": "gelu_new"}
    for family in CONFIGS
}
CHANGES["distilbert"] = {"vocab_size": SPEC.vocabulary, "activation": "relu"}
CHANGES["modernbert"] = {"vocab_size": SPEC.vocabulary, "hidden_activation": "silu", "local_attention": 4}


@pytest.mark.parametrize("family", CONFIGS)
def test_an_imported_backbone_equals_transformers(family, tmp_path):
    model = goldens.family_model(family, seed=5, **CHANGES[family])
    model.save_pretrained(tmp_path / "hf")
    (tmp_path / "hf" / "tokenizer.json").write_text(tokenizer_json())
    if family in TEXT:
        rows = token_rows((30, 11, 2), seed=4)
        wanted = goldens.family_states(model, rows)
    else:
        pixels = images(family, 4, seed=4)
        wanted = goldens.image_states(model, pixels)
        values = {"image_mean": [0.5] * pixels.shape[-1], "image_std": [0.5] * pixels.shape[-1], "size": 16}
        (tmp_path / "hf" / "preprocessor_config.json").write_text(json.dumps(values))
    import_backbone(tmp_path / "hf", tmp_path / "backbone")
    loaded = load_backbone(tmp_path / "backbone")
    if family not in TEXT:
        from PIL import Image

        from tests.tiny_images import encoded

        pictures = [Image.fromarray(p[..., 0] if p.shape[-1] == 1 else p) for p in pixels]
        rows = loaded.preprocessing.encode([encoded(picture) for picture in pictures])
    ids, mask = pad(rows, max(map(len, rows)))
    network, params = loaded.network, loaded.params
    found = network.finish(params, network.run_blocks(params, network.embed(params, {"ids": ids}), mask))
    for state, row, expected in zip(np.asarray(found), rows, wanted, strict=True):
        np.testing.assert_allclose(state[: len(row)], expected, atol=1e-4)


def test_resizing_equals_transformers(tmp_path):
    from PIL import Image

    from backbone.images import from_published
    from backbone.spec import ImageSpec

    draw = np.random.default_rng(0)
    picture = Image.fromarray(draw.integers(0, 256, (37, 23, 3), np.uint8))
    for resample in (2, 3):
        processor = transformers.ViTImageProcessorPil(size={"height": 16, "width": 16}, resample=resample)
        wanted = np.asarray(processor(picture, return_tensors="np")["pixel_values"])[0].transpose(1, 2, 0)
        image = ImageSpec(16, 8, (0.5,) * 3, (0.5,) * 3)
        found = from_published(processor.to_dict(), image, "p").pixels(picture)
        np.testing.assert_allclose((found / 255 - 0.5) / 0.5, wanted, atol=1e-5)
