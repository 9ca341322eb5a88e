"""The library of each product, in texts as XLA writes them, and in a program of this machine."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest

from metering.libraries import ProductUse, products_of

CPU = """HloModule jit_f, is_scheduled=true

%fused_computation (p0: f32[8,16], p1: f32[16,4]) -> f32[8,4] {
  %p0 = f32[8,16]{1,0} parameter(0)
  %p1 = f32[16,4]{1,0} parameter(1)
  ROOT %dot.1 = f32[8,4]{1,0} dot(%p0, %p1), lhs_contracting_dims={1}, rhs_contracting_dims={0}
}

%loop_fusion (p2: f32[8,4]) -> f32[8,8] {
  %p2 = f32[8,4]{1,0} parameter(0)
  ROOT %dot.2 = f32[8,8]{1,0} dot(%p2, %p2), lhs_contracting_dims={1}, rhs_contracting_dims={1}
}

ENTRY %main.9 (x: f32[8,16], w: f32[16,4]) -> f32[8,8] {
  %x = f32[8,16]{1,0} parameter(0)
  %w = f32[16,4]{1,0} parameter(1)
  %fusion = f32[8,4]{1,0} fusion(%x, %w), kind=kCustom, calls=%fused_computation, backend_config={"kind":"KIND"}
  %dot.3 = f32[8,4]{1,0} dot(%x, %w), lhs_contracting_dims={1}, rhs_contracting_dims={0}
  %dot.4 = f32[1,4]{1,0} dot(%x, %w), lhs_contracting_dims={1}, rhs_contracting_dims={0}
  %call = (f32[8,4]{1,0}, u8[64]{0}) custom-call(%x, %w), custom_call_target="TARGET"
  %other = f32[8,4]{1,0} custom-call(%x), custom_call_target="TopK"
  ROOT %out = f32[8,8]{1,0} fusion(%fusion), kind=kLoop, calls=%loop_fusion
}
"""


@pytest.mark.parametrize(
    ("kind", "target", "fused", "called"),
    [
        ("__ynn_fusion", "__onednn$matmul", "YNNPACK", "oneDNN"),
        ("__xnn_fusion", "__cublas$lt$matmul", "XNNPACK", "cuBLAS"),
        ("__triton_gemm", "__cudnn$convForward", "Triton", "cuDNN"),
    ],
)
def test_products_are_told_apart_by_their_libraries(kind, target, fused, called):
    text = CPU.replace("KIND", kind).replace("TARGET", target)
    alone = ProductUse("Eigen", "f32[8,4]", 1)
    assert set(products_of(text, "cpu")) == {
        ProductUse(fused, "f32[8,4]", 1),
        ProductUse(called, "f32[8,4]", 1),
        ProductUse("XLA", "f32[8,8]", 1),
        ProductUse("XLA", "f32[1,4]", 1),
        alone,
    }
    assert alone not in products_of(text, "gpu")


BATCH = """ENTRY %main.9 (x: f32[1,8,16], w: f32[1,16,4]) -> f32[1,8,4] {
  %dot.1 = f32[1,8,4]{2,1,0} dot(%x, %w), lhs_batch_dims={0}
  %dot.2 = f32[1,8,4]{2,1,0} dot(%x, %w), lhs_batch_dims={0}
  %dot.3 = f32[8,4,1]{2,1,0} dot(%x, %w), lhs_batch_dims={0}
  %conv = f32[2,8,8]{2,1,0} convolution(%x, %w), window={size=3}
  %call.1 = f32[8,4]{1,0} custom-call(%x, %w), custom_call_target="__onednn$matmul"
  %call.2 = f32[8,4]{1,0} custom-call(%x, %w), custom_call_target="__onednn$matmul"
}
"""


def test_products_are_counted_and_their_last_sides_tell_a_matrix():
    assert products_of(BATCH, "cpu") == (
        ProductUse("Eigen", "f32[1,8,4]", 2),
        ProductUse("Eigen", "f32[2,8,8]", 1),
        ProductUse("XLA", "f32[8,4,1]", 1),
        ProductUse("oneDNN", "f32[8,4]", 2),
    )


def test_a_program_of_this_machine_names_a_library_for_every_product():
    def two(x, w):
        return jnp.tanh(x @ w) @ w.T

    text = jax.jit(two).lower(jnp.ones((64, 128)), jnp.ones((128, 256))).compile().as_text()
    used = products_of(text, "cpu")
    assert {(one.shape, one.count) for one in used} == {("f32[64,256]", 1), ("f32[64,128]", 1)}
    assert {one.library for one in used} <= {"YNNPACK", "XNNPACK", "oneDNN", "Eigen"}
