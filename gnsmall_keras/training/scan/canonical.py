"""Convolutions of a step as XLA computes them best on a CPU.

XLA for CPUs brings the axes of a convolution into its fastest order, but not in
the body of a loop. Gradients of kernels come in another order: there they would
be slow, and their sums rounded otherwise than in a step by itself.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

_CALLS = {"jit", "pjit", "closed_call", "custom_jvp_call", "custom_vjp_call"}


def with_canonical_convolutions(step: Callable[..., Any]) -> Callable[..., Any]:
    """Returns a function of arrays whose convolutions are in XLA's order."""
    import jax

    @functools.wraps(step)
    def canonical(*args):
        traced, shapes = jax.make_jaxpr(step, return_shape=True)(*args)
        values = _evaluate(traced.jaxpr, traced.consts, jax.tree.leaves(args))
        return jax.tree.unflatten(jax.tree.structure(shapes), values)

    return canonical


def _evaluate(jaxpr, consts, args) -> list[Any]:
    """Computes a program of JAX, calls in it included."""
    names = (*jaxpr.constvars, *jaxpr.invars)
    found = dict(zip(names, (*consts, *args), strict=True))

    def value(atom):
        return atom.val if hasattr(atom, "val") else found[atom]

    for equation in jaxpr.eqns:
        inputs = [value(atom) for atom in equation.invars]
        outputs = _results(equation, inputs)
        found.update(zip(equation.outvars, outputs, strict=True))
    return [value(atom) for atom in jaxpr.outvars]


def _results(equation, inputs) -> Sequence[Any]:
    name, params = equation.primitive.name, equation.params
    if name == "conv_general_dilated":
        return [_convolve(*inputs, **params)]
    if name in _CALLS:
        inner = params.get("jaxpr") or params["call_jaxpr"]
        return _evaluate(inner.jaxpr, inner.consts, inputs)
    return _bind(equation, inputs)


def _bind(equation, inputs):
    params = equation.primitive.get_bind_params(equation.params)
    functions = ()
    if isinstance(params, tuple):  # before JAX 0.10
        functions, params = params
    found = equation.primitive.bind(*functions, *inputs, **params)
    return found if equation.primitive.multiple_results else [found]


def _convolve(images, kernel, *, dimension_numbers, **params):
    """Batch, sides, channels; sides, channels in and out."""
    import jax

    left, right, out = dimension_numbers
    images = images.transpose(left[0], *left[2:], left[1])
    kernel = kernel.transpose(*right[2:], right[1], right[0])
    axes = tuple(range(len(left)))
    last = axes[-1]
    plain = jax.lax.ConvDimensionNumbers(
        (0, last, *axes[1:-1]),
        (last, last - 1, *axes[:-2]),
        (0, last, *axes[1:-1]),
    )
    found = jax.lax.conv_general_dilated_p.bind(
        images, kernel, dimension_numbers=plain, **params
    )
    order = (out[0], *out[2:], out[1])  # where each axis of it belongs
    return found.transpose(*(order.index(axis) for axis in axes))
