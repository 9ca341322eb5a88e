"""Precisions of a trunk: the products against formulas written by hand, exact rows, identities, the record."""

from __future__ import annotations

import json
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from adapters.forward import states_at
from adapters.model import GraftModel
from adapters.specs import Classification
from backbone.errors import InputError
from backbone.network.encoder import Network
from backbone.network.products import matrix_product
from backbone.network.stored import Stored, columns, dense
from backbone.precisions.precision import Precision, ids_of, precision_named, precision_of
from backbone.precisions.record import record, record_file, recorded, trunk_id
from backbone.storage import in_precision, load_backbone
from backbone.trees import content_hash, flatten
from backbone.variants.registered import variants
from tests.tiny import SPEC, random_params

TAGS = tuple(variants(Precision))
CHEAPER = tuple(tag for tag in TAGS if tag != "float32")
BASE = "sha256:" + "0" * 64


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TOPGRAFT_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def drawn(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def kernel_of(tag: str, values: np.ndarray):
    return jax.tree.map(jnp.asarray, precision_named(tag).kernel(values))


def states(trunk, ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Returns the last states of real tokens, zeros elsewhere."""
    model, last = GraftModel(trunk.network, (), Classification(), ("0", "1")), trunk.spec.blocks
    hidden = states_at(model, trunk.params, {}, {"ids": ids, "mask": mask}, (last,))[last]
    return np.asarray(hidden) * mask[..., None]


def batch(trunk, rows: int, tokens: int) -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.default_rng(1)
    mask = np.arange(tokens) < draw.integers(tokens // 2, tokens + 1, rows)[:, None]
    ids = draw.integers(0, trunk.spec.vocabulary, mask.shape).astype(np.int32)
    return np.where(mask, ids, 0).astype(np.int32), mask


def cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    a, b = a.reshape(len(a), -1).astype(float), b.reshape(len(b), -1).astype(float)
    return (a * b).sum(axis=1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)


def test_bfloat16_rounds_the_factors_and_nothing_else():
    x, w, g = drawn(7, 24), drawn(24, 10, seed=1), drawn(7, 10, seed=2)
    kernel = kernel_of("bfloat16", w)
    y, pull = jax.vjp(lambda x: jax.jit(matrix_product)(x, kernel), x)
    (to_x,) = pull(jnp.asarray(g))
    rounded = {name: a.astype(ml_dtypes.bfloat16).astype(float) for name, a in (("x", x), ("w", w), ("g", g))}
    assert (y.dtype, to_x.dtype) == (jnp.float32, jnp.float32)
    np.testing.assert_allclose(y, rounded["x"] @ rounded["w"], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(to_x, rounded["g"] @ rounded["w"].T, rtol=1e-5, atol=1e-5)
    assert np.abs(y - x @ w).max() > 1e-3, "the plain product is another one"


def test_int8_is_the_formula_of_its_file():
    x, w, g = drawn(7, 24), drawn(24, 10, seed=1), drawn(7, 10, seed=2)
    x[3], w[:, 2] = 0, 0
    kernel = kernel_of("int8", w)
    y, pull = jax.vjp(lambda x: jax.jit(matrix_product)(x, kernel), x)
    (to_x,) = pull(jnp.asarray(g))
    r, c = (np.maximum(np.abs(a).max(axis=axis) / 127, 1e-30) for a, axis in ((x, 1), (w, 0)))
    q, stored = np.rint(x / r[:, None]), np.rint(w / c)
    np.testing.assert_allclose(y, (q @ stored) * r[:, None] * c, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(to_x, g @ (stored * c).T, rtol=2e-2, atol=5e-2)
    np.testing.assert_array_equal(kernel.values, stored)
    assert not np.asarray(y)[3].any()
    assert not np.asarray(y)[:, 2].any()
    table = precision_named("int8").table(w)
    np.testing.assert_allclose(table.rows(np.array([[4, 0]])), w[[4, 0]][None], atol=np.abs(w).max() / 254)


def test_int4_is_the_formula_of_its_file():
    """Groups of 32 inputs, of which the last is filled up; a scale no worse than that of the largest magnitude."""
    x, w, g = drawn(7, 40), drawn(40, 10, seed=1), drawn(7, 10, seed=2)
    w[:32, 3] = 0
    kernel = kernel_of("int4", w)
    assert (kernel.shape, kernel.values.shape, kernel.scales.shape) == ((40, 10), (32, 10), (2, 10))
    assert kernel.nbytes == 32 * 10 + 2 * 2 * 10
    codes = np.stack([np.asarray(kernel.values) & 15, np.asarray(kernel.values) >> 4], axis=1).reshape(64, 10) - 8.0
    wanted = codes * np.repeat(np.asarray(kernel.scales, np.float32), 32, axis=0)
    np.testing.assert_array_equal(dense(kernel), wanted[:40])
    assert not np.asarray(dense(kernel))[:32, 3].any()
    for group in (slice(0, 32), slice(32, 40)):
        scale = np.maximum(np.abs(w[group]).max(axis=0) / 7, 1e-30).astype(ml_dtypes.bfloat16).astype(np.float32)
        plain = np.clip(np.rint(w[group] / scale), -8, 7) * scale
        ours = np.square(wanted[group] - w[group]).sum(axis=0)
        assert (ours <= np.square(plain - w[group]).sum(axis=0) + 1e-6).all()
        assert (np.abs(wanted[group] - w[group]).mean(axis=0) < 0.3 * scale + 1e-6).all()
    y, pull = jax.vjp(lambda x: jax.jit(matrix_product)(x, kernel), x)
    np.testing.assert_allclose(y, x @ wanted[:40], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(pull(jnp.asarray(g))[0], g @ wanted[:40].T, rtol=1e-4, atol=1e-4)
    table = precision_named("int4").table(w)
    assert table.shape == (40, 10)
    np.testing.assert_allclose(table.rows(np.array([[4, 0]])), w[[4, 0]][None], atol=np.abs(w).max() / 10)
    np.testing.assert_array_equal(table.rows(slice(2, 5)), np.asarray(table.dense())[2:5])


@pytest.mark.parametrize("tag", CHEAPER)
def test_parts_of_a_kernel_are_the_kernels_of_the_parts(tag):
    w, x = drawn(12, 9), drawn(4, 12, seed=3)
    kernel = kernel_of(tag, w)
    for part, alone in zip(columns(kernel, (3, 3, 3)), np.split(w, 3, axis=1), strict=True):
        np.testing.assert_array_equal(part.times(x), kernel_of(tag, alone).times(x))
    np.testing.assert_allclose(dense(kernel), w, atol=np.abs(w).max() / (10 if tag == "int4" else 100))
    assert (kernel.shape, kernel[...] is kernel) == (w.shape, True)
    with pytest.raises(TypeError, match="is read by"):
        kernel[0]


@pytest.mark.parametrize("platform", ["cpu", "cuda", "tpu"])
@pytest.mark.parametrize(("tag", "kind", "result"), [("bfloat16", "bf16", "f32"), ("int8", "i8", "i32")])
def test_the_product_is_lowered_in_its_own_type_in_both_directions(tag, kind, result, platform):
    kernel, x = kernel_of(tag, drawn(24, 10)), drawn(7, 24)
    gradient = jax.jit(jax.grad(lambda x, kernel: (matrix_product(x, kernel) ** 2).sum()))
    text = gradient.trace(x, kernel).lower(lowering_platforms=(platform,)).as_text()
    products = re.findall(r"dot_general.*\(tensor<\w+x(\w+)>, tensor<\w+x(\w+)>\) -> tensor<\w+x(\w+)>", text)
    assert sorted(products) == sorted([(kind, kind, result), ("bf16", "bf16", "f32")])


@pytest.mark.parametrize("tag", TAGS)
def test_a_precision_names_the_dtype_of_the_factors(tag):
    kernel, x = kernel_of(tag, drawn(24, 10)), drawn(7, 24)
    text = jax.jit(matrix_product).trace(x, kernel).lower().as_text()
    short = {"float32": "f32", "bfloat16": "bf16", "int8": "i8"}[precision_named(tag).factors]
    assert re.search(rf"dot_general.*\(tensor<7x24x{short}>, tensor<24x10x{short}>\)", text), text


def test_the_compiler_leaves_products_of_bfloat16_to_units_that_have_them():
    flags = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    if jax.default_backend() != "cpu" or not re.search(r"avx512_bf16|amx_bf16", flags):
        pytest.skip("this processor has no units for bfloat16")
    kernel, x = kernel_of("bfloat16", drawn(384, 1152)), drawn(512, 384)
    text = jax.jit(matrix_product).lower(x, kernel).compile().as_text()
    factors = re.search(r"= f32\[512,1152\]\S* dot\((%[\w.]+), (%[\w.]+)\)", text).groups()
    for name in factors:
        assert re.search(rf"{re.escape(name)} = bf16\[", text), text


@pytest.mark.cpu_bits
@pytest.mark.parametrize("rows", [1, 3, 8])
def test_int8_rows_have_the_same_bits_in_every_batch(rows, tiny):
    trunk = in_precision(tiny, "int8")
    ids, mask = batch(trunk, 16, 24)
    whole = states(trunk, ids, mask)
    np.testing.assert_array_equal(states(trunk, ids[:rows], mask[:rows]), whole[:rows])
    order = np.random.default_rng(2).permutation(16)
    np.testing.assert_array_equal(states(trunk, ids[order], mask[order]), whole[order])
    others = np.where(np.arange(16)[:, None] < rows, ids, 7).astype(np.int32)
    np.testing.assert_array_equal(states(trunk, others, mask)[:rows], whole[:rows])
    assert (states(tiny, ids, mask) != whole).any(), "it is another trunk than float32"


@pytest.mark.cpu_bits
@pytest.mark.parametrize("tokens", [8, 16])
def test_int8_rows_of_a_real_trunk_have_the_same_bits_alone(tokens, minilm):
    trunk = in_precision(minilm, "int8")
    ids, mask = batch(trunk, 8, tokens)
    whole = states(trunk, ids, mask)
    np.testing.assert_array_equal(states(trunk, ids[:1], mask[:1]), whole[:1])
    assert cosines(whole, states(minilm, ids, mask)).min() > 0.97


@pytest.mark.parametrize("name", ["tiny", "minilm"])
def test_bfloat16_keeps_the_states(name, request):
    trunk = request.getfixturevalue(name)
    ids, mask = batch(trunk, 8, 16)
    other, plain = states(in_precision(trunk, "bfloat16"), ids, mask), states(trunk, ids, mask)
    assert 0.9999 <= cosines(other, plain).min() < 1


@pytest.mark.parametrize(("tag", "least"), [("float32", 1.0), ("bfloat16", 1.98), ("int8", 3.8), ("int4", 6.5)])
def test_bytes_of_a_trunk(tag, least, minilm):
    trunk = in_precision(minilm, tag)
    sizes = [sum(leaf.nbytes for leaf in jax.tree.leaves(one.params)) for one in (minilm, trunk)]
    assert sizes[0] / sizes[1] >= least
    assert sum(leaf.nbytes for leaf in flatten(trunk.params).values()) == sizes[1]


def test_only_kernels_and_tables_are_stored():
    for tag in CHEAPER:
        prepared = flatten(precision_named(tag).prepare(random_params()))
        rounded = {path for path, leaf in prepared.items() if isinstance(leaf, Stored) or leaf.dtype != np.float32}
        assert rounded == {p for p in prepared if p.rpartition(".")[2] in ("kernel", "token", "position")}


def test_each_precision_is_another_trunk_and_float32_is_the_backbone():
    ids = ids_of(BASE)
    assert len(set(ids.values())) == len(TAGS) == len(ids)
    assert ids["float32"] == BASE
    assert [precision_of(BASE, ids[tag]) for tag in TAGS] == list(TAGS)
    assert precision_of(BASE, "sha256:" + "1" * 64) is None
    with pytest.raises(InputError, match="'int9' is unknown"):
        precision_named("int9")


def test_a_trunk_is_loaded_as_it_is_recorded(tiny_path, tiny, home):
    assert recorded(tiny.base_id) == "float32"
    assert load_backbone(tiny_path).weights_id == tiny.base_id
    record(tiny.base_id, "int8", "by hand")
    trunk = load_backbone(tiny_path)
    assert (trunk.precision, trunk.base_id) == ("int8", tiny.base_id)
    assert trunk.weights_id == trunk_id(tiny.base_id) == ids_of(tiny.base_id)["int8"] != tiny.base_id
    assert load_backbone(tiny_path, precision="float32").weights_id == tiny.base_id
    same = in_precision(tiny, "int8")
    host = [jax.tree.map(np.asarray, flatten(one.params)) for one in (same, trunk)]
    assert jax.tree.all(jax.tree.map(np.array_equal, *host))
    with pytest.raises(ValueError, match="only float32 weights"):
        in_precision(trunk, "bfloat16")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema": 2}, "this version reads 1"),
        ({"precision": "int9"}, "'int9' is unknown"),
        ({"weights_id": BASE}, "is about sha256:000000000000"),
        (None, "unreadable"),
    ],
)
def test_a_damaged_record_is_refused(change, message, tiny, home):
    record(tiny.base_id, "int8", "by hand")
    file = record_file(tiny.base_id)
    values = json.loads(file.read_text())
    file.write_text("{" if change is None else json.dumps(values | change))
    with pytest.raises(InputError, match=message):
        recorded(tiny.base_id)


def test_float32_is_what_it_was(tiny):
    """The leaves of a float32 trunk are the arrays of the folder, so nothing of it can have changed."""
    assert content_hash(tiny.params, json.dumps("x")) == content_hash(random_params(), json.dumps("x"))
    assert Network(SPEC) == tiny.network
