"""The product of states and a kernel: the one place where what a kernel is decides how it is multiplied.

A float32 kernel is multiplied in float32, with a gradient of the kernel in the order that a CPU multiplies fastest.
XLA's product on a CPU writes a wide matrix faster than a tall one. A tall gradient x^T g [I, O], I > O, is therefore
computed as g^T x [O, I] and transposed. The gradient alone is 18 % faster for 1,024 x 256, 15 % for 1,536 x 384 and
35 % for 512 x 128; it is 4 % slower for 3,072 x 768 (2,048 to 4,096 rows, a core with AVX2). Wide gradients and other
devices are left to XLA.

A stored kernel (`backbone.network.stored`) brings its own product, and its own gradient of the states. It is frozen, so
it has no gradient itself. A kernel of low rank is two products; it is trained as any other.
"""

from __future__ import annotations

import jax

from backbone.network.stored import FrozenKernel, LowRankKernel, StoredKernel

Array = jax.Array


def matrix_product(x: Array, kernel: FrozenKernel) -> Array:
    """Computes x [N, I] times kernel [I, O]: [N, O] in the dtype of x, which a kernel that is an array takes on."""
    if isinstance(kernel, LowRankKernel):
        return matrix_product(matrix_product(x, kernel.first), kernel.second)
    if isinstance(kernel, StoredKernel):
        return _stored_product(x, kernel)
    kernel = kernel.astype(x.dtype)
    return _tall_product(x, kernel) if kernel.shape[0] > kernel.shape[1] else x @ kernel


@jax.custom_vjp
def _tall_product(x: Array, kernel: Array) -> Array:
    return x @ kernel


def _forward(x: Array, kernel: Array) -> tuple[Array, tuple[Array, Array]]:
    return x @ kernel, (x, kernel)


def _backward(saved: tuple[Array, Array], g: Array) -> tuple[Array, Array]:
    x, kernel = saved
    gradient = jax.lax.platform_dependent(x, g, cpu=_wide_then_transposed, default=lambda x, g: x.T @ g)
    return g @ kernel.T, gradient


def _wide_then_transposed(x: Array, g: Array) -> Array:
    wide: Array = jax.lax.optimization_barrier(g.T @ x)  # type: ignore[no-untyped-call]  # else XLA folds the transposition
    return wide.T


_tall_product.defvjp(_forward, _backward)


@jax.custom_vjp
def _stored_product(x: Array, kernel: StoredKernel) -> Array:
    return kernel.times(x)


def _stored_forward(x: Array, kernel: StoredKernel) -> tuple[Array, StoredKernel]:
    return kernel.times(x), kernel


def _stored_backward(kernel: StoredKernel, g: Array) -> tuple[Array, None]:
    return kernel.transposed_times(g), None  # None: no gradient of a frozen kernel


_stored_product.defvjp(_stored_forward, _stored_backward)
