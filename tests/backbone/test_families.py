"""Every family against transformers on PyTorch, through files that PyTorch wrote (`make goldens`), and its traps."""

from __future__ import annotations

import json
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file

from backbone.buckets import pad
from backbone.errors import InputError
from backbone.exchange.importing import bind, import_backbone
from backbone.families import Family
from backbone.images import patches
from backbone.network.attention import attention, rotate
from backbone.network.encoder import Network, normalised
from backbone.spec import EncoderSpec, ImageSpec
from backbone.storage import load_backbone, weights_id
from backbone.trees import flatten, unflatten
from tests import reference
from tests.families import CONFIGS, TEXT, config_of, family_of, images, token_rows
from tests.goldens.read import GOLDENS, ROOT, golden
from tests.tiny import SPEC, tokenizer_json


def run(network: Network, params, rows, bucket: int | None = None):
    ids, mask = pad(rows, bucket or max(map(len, rows)), 1)

    @jax.jit
    def forward(params, ids, mask):
        return network.finish(params, network.run_blocks(params, network.embed(params, {"ids": ids}), mask))

    return np.asarray(forward(params, ids, mask))


def rows_of(network: Network, family: str):
    """The rows that a golden's states are of."""
    image = network.spec.image
    return [patches(picture, image) for picture in images(family)] if image else token_rows()


@pytest.mark.parametrize("family", CONFIGS)
def test_hidden_states_equal_transformers(family):
    file = GOLDENS / f"{family}.safetensors"
    assert file.is_file(), f"make golden FAMILY={family} writes {file}"
    network, params, wanted = golden(family)
    rows = rows_of(network, family)
    found = run(network, params, rows, max(map(len, rows)) + (8 if family in TEXT else 0))
    for state, row, expected in zip(found, rows, wanted, strict=True):
        np.testing.assert_allclose(state[: len(row)], expected, atol=1e-4)
    assert np.abs(wanted[0] - wanted[0].mean(axis=0)).max() > 0.1, "tokens differ"


@pytest.mark.parametrize("family", ["modernbert", "vit"])
def test_a_cut_between_blocks_changes_nothing_and_taps_are_unfinished(family):
    network, params, _ = golden(family)
    rows = rows_of(network, family)[-2:]
    ids, mask = pad(rows, max(map(len, rows)))

    @jax.jit
    def forward(params, ids, mask):
        hidden = network.embed(params, {"ids": ids})
        whole, states = network.run_blocks(params, hidden, mask, taps=(1, 2))
        above = network.run_blocks({"blocks": {"1": params["blocks"]["1"]}}, states[1], mask, start=1)
        return whole, states[2], above, network.finish(params, whole)

    whole, tapped, above, finished = forward(params, ids, mask)
    np.testing.assert_array_equal(tapped, whole)
    np.testing.assert_allclose(above, whole, atol=1e-5)
    assert np.abs(finished - whole).max() > 0.1, "the final norm is not part of the last block"


def test_roberta_positions_start_after_the_padding_id():
    for family, offset in (("roberta", 2), ("xlm-roberta", 4)):
        network, params, _ = golden(family)
        spec, e = network.spec, params["embeddings"]
        assert (spec.position_offset, spec.positions) == (offset, 32)
        assert e["position"].shape[0] == 32 + offset
        found = network.embed(params, {"ids": np.array([[7, 9]], np.int32)})[0]
        for place, token in enumerate((7, 9)):
            x = e["token"][token] + e["position"][offset + place] + e["segment"][0]
            wanted = reference.norm(np.asarray(x), e["norm"]["scale"], e["norm"]["bias"], spec.norm_epsilon)
            np.testing.assert_allclose(found[place], wanted, atol=1e-5)
        assert network.embed(params, {"ids": np.zeros((1, spec.positions), np.int32)}).shape == (1, 32, 32)


@pytest.mark.parametrize("family", ["distilbert", "modernbert"])
def test_families_without_token_types_refuse_segments(family):
    network, params, _ = golden(family)
    assert "segment" not in params["embeddings"]
    assert "pooler" not in params
    ids = np.zeros((1, 4), np.int32)
    with pytest.raises(ValueError, match="no segment embeddings"):
        network.embed(params, {"ids": ids, "segments": ids})


def test_modernbert_has_no_first_attention_norm_no_positions_and_zero_biases():
    network, params, _ = golden("modernbert")
    assert "norm" not in params["blocks"]["0"]["attention"]
    assert "norm" in params["blocks"]["1"]["attention"]
    assert "position" not in params["embeddings"]
    biases = {path: leaf for path, leaf in flatten(params).items() if path.endswith("bias")}
    assert biases
    assert not any(np.any(leaf) for leaf in biases.values())
    assert network.spec.windows == (0, 4)


def test_a_token_outside_the_window_is_not_seen_in_a_local_block_and_is_in_a_global_one():
    network, params, _ = golden("modernbert")
    row = token_rows((20,))[0]
    other = np.concatenate([row[:-1], [row[-1] % 35 + 5]]).astype(np.int32)

    @jax.jit
    def each(params, ids):
        hidden, mask = network.embed(params, {"ids": ids}), jnp.ones(ids.shape, bool)
        return [network.run_blocks(params, hidden, mask, start=k, stop=k + 1) for k in (0, 1)]

    whole, local = map(np.asarray, each(params, np.stack([row, other])))
    np.testing.assert_array_equal(local[0][:15], local[1][:15])
    assert np.abs(local[0][15:] - local[1][15:]).max(axis=-1).min() > 1e-4, "the window of 4 includes token 15"
    assert np.abs(whole[0][0] - whole[1][0]).max() > 1e-5


@pytest.mark.parametrize(("family", "special"), [("vit", 1), ("deit", 2)])
def test_class_tokens_stand_before_the_patches_and_have_positions_of_their_own(family, special):
    network, params, _ = golden(family)
    spec, e, pixels = network.spec, params["embeddings"], images(family)[:1]
    assert (spec.image.special, spec.positions) == (special, 4 + special)
    assert "norm" not in e
    found = network.embed(params, {"ids": patches(pixels[0], spec.image)[None]})[0]
    np.testing.assert_allclose(found[:special], e["special"] + e["position"][:special], atol=1e-6)
    for place, (top, left) in enumerate(((0, 0), (0, 8), (8, 0), (8, 8)), special):
        patch = (pixels[0, top : top + 8, left : left + 8].reshape(-1) / 255 - 0.5) / 0.5
        wanted = patch @ e["patch"]["kernel"] + e["patch"]["bias"] + e["position"][place]
        np.testing.assert_allclose(found[place], wanted, atol=1e-4)


def test_each_channel_has_its_own_mean_and_deviation():
    image = ImageSpec(size=4, patch=2, mean=(0.1, 0.2, 0.3), std=(1.0, 2.0, 4.0))
    pixels = np.random.default_rng(0).integers(0, 256, (4, 4, 3), np.uint8)
    found = normalised(jnp.asarray(patches(pixels, image)[1:]), image).reshape(2, 2, 2, 2, 3)
    wanted = (pixels / 255 - np.array(image.mean)) / np.array(image.std)
    np.testing.assert_allclose(found[1, 0, 0, 1], wanted[2, 1], atol=1e-6)


def test_windowed_attention_equals_softmax_over_the_neighbours_and_prepended_keys():
    draw = np.random.default_rng(0)
    q = draw.normal(size=(1, 7, 4)).astype(np.float32)
    k, v = (draw.normal(size=(1, 9, 4)).astype(np.float32) for _ in range(2))
    mask = np.array([[1, 1, 1, 1, 1, 1, 0]], bool)
    found = attention(q, k, v, mask, heads=1, window=2)
    for token in range(6):
        seen = [0, 1, *(2 + other for other in range(6) if abs(other - token) <= 2)]
        weights = reference.softmax(q[0, token] @ k[0, seen].T / 2)
        np.testing.assert_allclose(found[0, token], weights @ v[0, seen], atol=1e-5)


def test_rotated_products_depend_on_the_distance_alone():
    draw = np.random.default_rng(0)
    q, k = (np.repeat(draw.normal(size=(1, 1, 8)), 6, axis=1).astype(np.float32) for _ in range(2))
    scores = np.asarray(rotate(q, 2, 100.0))[0, :, :4] @ np.asarray(rotate(k, 2, 100.0))[0, :, :4].T
    for distance in range(-5, 6):
        line = np.diagonal(scores, distance)
        np.testing.assert_allclose(line, line[0], atol=1e-5)
    complex_q = (q[0, 0, :2] + 1j * q[0, 0, 2:4]) * np.exp(3j * 100.0 ** (-np.arange(2) / 2))
    found = np.asarray(rotate(q, 2, 100.0))[0, 3, :4]
    np.testing.assert_allclose(found, np.concatenate([complex_q.real, complex_q.imag]), atol=1e-5)


def test_older_modernbert_configs_say_the_same():
    new = config_of("modernbert")
    old = {k: v for k, v in new.items() if k not in ("layer_types", "rope_parameters")}
    old |= {"global_attn_every_n_layers": 2, "global_rope_theta": 160000.0, "local_rope_theta": 100.0}
    spec = family_of("modernbert").spec
    assert spec(old, set()) == spec(new, set())
    without = spec({k: v for k, v in old.items() if k != "local_rope_theta"}, set())
    assert without.local_theta == 160000.0, "published configs leave it null where both are the same"


@pytest.mark.parametrize(
    ("family", "field", "value"),
    [
        ("roberta", "position_embedding_type", "relative_key"),
        ("roberta", "is_decoder", True),
        ("xlm-roberta", "pad_token_id", "one"),
        ("distilbert", "activation", "mish"),
        ("distilbert", "dim", None),
        ("modernbert", "attention_bias", True),
        ("modernbert", "mlp_bias", True),
        ("modernbert", "norm_bias", True),
        ("modernbert", "hidden_activation", "mish"),
        ("modernbert", "layer_types", ["full_attention"]),
        ("modernbert", "rope_parameters", {"full_attention": {"rope_type": "yarn", "rope_theta": 1e4}}),
        ("modernbert", "local_attention", 1),
        ("vit", "qkv_bias", False),
        ("vit", "image_size", [16, 16]),
        ("vit", "num_channels", 4),
        ("vit", "pooler_output_size", 16),
        ("deit", "hidden_act", "mish"),
    ],
)
def test_options_that_are_not_supported_name_the_field(family, field, value):
    with pytest.raises(InputError, match=rf"config\.json: {field}"):
        family_of(family).spec(config_of(family) | {field: value}, set())


@pytest.mark.parametrize("family", TEXT)
def test_tensors_are_known_with_and_without_their_prefix(family):
    known = family_of(family)
    for path in ("embeddings.token", "blocks.1.mlp.up.kernel"):
        (name,) = known.sources(path)
        assert known.tensor_name(f"{known.task_prefix}.{name}") == known.tensor_name(name) == name
        assert not known.is_ignored(name)


@pytest.mark.parametrize(
    ("family", "tensor"),
    [
        ("bert", "cls.bias"),
        ("roberta", "lm_head.bias"),
        ("xlm-roberta", "lm_head.bias"),
        ("distilbert", "vocab_transform.bias"),
        ("modernbert", "decoder.bias"),
    ],
)
def test_a_head_of_pretraining_is_no_part_of_the_backbone(family, tensor):
    assert family_of(family).is_ignored(tensor)


@pytest.mark.parametrize("family", [name for name in CONFIGS if family_of(name).exportable])
def test_a_family_that_exports_gives_back_what_it_read(family):
    known = family_of(family)
    network, params, _ = golden(family)
    config = known.config(network.spec, masked=False)
    assert config["model_type"] == family
    released: dict[str, np.ndarray] = {}
    for path, leaf in flatten(params).items():
        released |= known.release(path, np.asarray(leaf))
    assert known.spec(config, set(released)) == network.spec
    again, ignored = bind(known, network.spec, released)
    assert not ignored
    for path, leaf in flatten(again).items():
        np.testing.assert_array_equal(leaf, flatten(params)[path], err_msg=path)


OWN = """
from backbone.families.roberta import Roberta


class Camembert(Roberta, tag="camembert"):
    '''RoBERTa's tensors under a name of their own.'''

    task_prefix = "camembert"
"""


def test_a_family_in_a_file_of_ones_own_is_imported_once_the_file_is_named(tmp_path, monkeypatch):
    source = tmp_path / "hf"
    source.mkdir()
    with safe_open(GOLDENS / "roberta.safetensors", framework="numpy") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys() if not name.startswith("states.")}  # noqa: SIM118
    words = np.resize(tensors["embeddings.word_embeddings.weight"], (SPEC.vocabulary, 32))
    tensors["embeddings.word_embeddings.weight"] = words
    save_file({f"camembert.{name}": tensor for name, tensor in tensors.items()}, source / "model.safetensors")
    config = config_of("roberta") | {"model_type": "camembert", "vocab_size": SPEC.vocabulary}
    (source / "config.json").write_text(json.dumps(config))
    (source / "tokenizer.json").write_text(tokenizer_json())
    with pytest.raises(InputError, match=r"model_type: 'camembert' is not supported.* needs TOPGRAFT_VARIANTS"):
        import_backbone(source, tmp_path / "out")
    (tmp_path / "own.py").write_text(OWN)
    monkeypatch.setenv("TOPGRAFT_VARIANTS", str(tmp_path / "own.py"))
    import_backbone(source, tmp_path / "out")
    loaded = load_backbone(tmp_path / "out")
    assert loaded.source["family"] == "camembert"
    np.testing.assert_array_equal(loaded.params["embeddings"]["token"], words.astype(np.float32))
    del Family.registry.variants["camembert"], Family.registry.files["camembert"]


def test_a_family_without_an_example_is_no_member_of_the_suites():
    class Bare(Family):
        """Says nothing of itself."""

    with pytest.raises(NotImplementedError, match="Bare: an example_config is missing"):
        Bare.example_config()


def test_families_import_no_jax():
    code = "import sys; from tests.families import CONFIGS; sys.exit('jax' in sys.modules or not CONFIGS)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_ids_of_backbones_that_were_stored_before_other_families_came_are_unchanged():
    zeros = unflatten({p: np.zeros(leaf.shape, np.float32) for p, leaf in flatten(Network(SPEC).abstract()).items()})
    assert weights_id(SPEC, zeros) == "sha256:5503912a8ae9015cef075cfdf2e2c617fc3ecdc3a9425843281fb4c3a4c6a7e6"
    assert SPEC.identity().keys().isdisjoint(EncoderSpec.LATER)
    other = EncoderSpec(**{name: getattr(SPEC, name) for name in SPEC.identity()}, norm="pre")
    assert other.identity()["norm"] == "pre"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"windows": (1,)}, "windows: one for each of 3 blocks"),
        ({"rotary_theta": 10.0, "width": 36, "heads": 12}, "heads of even width"),
        ({"rotary_theta": 10.0, "windows": (1, 0, 0)}, "local_theta"),
        ({"vocabulary": 0}, "vocabulary"),
    ],
)
def test_specs_that_cannot_be_are_refused(change, message):
    with pytest.raises(InputError, match=message):
        EncoderSpec(**SPEC.identity() | change)
