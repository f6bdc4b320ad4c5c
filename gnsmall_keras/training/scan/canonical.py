"""Convolutions of a step, written for the loop that the step is in.

XLA for CPUs brings the axes of a convolution into its fastest order, but not in
the body of a loop. Gradients of kernels come in another order: there they would
be slow, and their sums rounded otherwise than in a step by itself.

Of several runs a convolution would be one in groups, which is slow everywhere;
products of matrices are not. And on GPUs XLA would bring all branches of a
convolution into an order by channels, with a copy of the images for each of a
kernel's nine places: the sums over them say which order they read.
"""

import functools
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

_Instead = dict[str, Callable[..., Any]]  # of primitives, by their names
_CALLS = {"jit", "pjit", "closed_call", "custom_jvp_call", "custom_vjp_call"}
_MOST_TAPS = 9
_OF_BRANCHES = 5  # axes: batch, height, width, branches, channels


def rewritten(
    step: Callable[..., Any], *, products: bool = False, ordered: bool = False
) -> Callable[..., Any]:
    """Returns a function of arrays whose convolutions are in XLA's order.

    Args:
        step: of arrays.
        products: whether small ones are products of matrices, which rounds
            otherwise.
        ordered: whether what sums of all branches read lies in memory in the
            order of its axes.
    """
    import jax

    convolve = _as_product if products else _convolve
    instead: _Instead = {
        "conv_general_dilated": functools.partial(_in_order, convolve)
    }
    if ordered:
        instead["reduce_sum"] = _sum_in_order

    @functools.wraps(step)
    def other(*args):
        traced, shapes = jax.make_jaxpr(step, return_shape=True)(*args)
        values = _evaluate(
            traced.jaxpr, traced.consts, jax.tree.leaves(args), instead
        )
        return jax.tree.unflatten(jax.tree.structure(shapes), values)

    return other


def _evaluate(jaxpr, consts, args, instead) -> list[Any]:
    """Computes a program of JAX, calls in it included."""
    names = (*jaxpr.constvars, *jaxpr.invars)
    found = dict(zip(names, (*consts, *args), strict=True))

    def value(atom):
        return atom.val if hasattr(atom, "val") else found[atom]

    for equation in jaxpr.eqns:
        inputs = [value(atom) for atom in equation.invars]
        outputs = _results(equation, inputs, instead)
        found.update(zip(equation.outvars, outputs, strict=True))
    return [value(atom) for atom in jaxpr.outvars]


def _results(equation, inputs, instead) -> Sequence[Any]:
    name, params = equation.primitive.name, equation.params
    if name in instead:
        return [instead[name](*inputs, **params)]
    if name in _CALLS:
        inner = params.get("jaxpr") or params["call_jaxpr"]
        return _evaluate(inner.jaxpr, inner.consts, inputs, instead)
    return _bind(equation, inputs)


def _bind(equation, inputs):
    params = equation.primitive.get_bind_params(equation.params)
    functions = ()
    if isinstance(params, tuple):  # before JAX 0.10
        functions, params = params
    found = equation.primitive.bind(*functions, *inputs, **params)
    return found if equation.primitive.multiple_results else [found]


def _sum_in_order(values, **params):
    """A sum; what it reads of branches is in the order of its axes."""
    import jax
    from jax.experimental import layout

    if values.ndim == _OF_BRANCHES:
        # Its name before JAX 0.7, where Layout is another class.
        kind = getattr(layout, "DeviceLocalLayout", layout.Layout)
        order = kind(tuple(range(values.ndim)))
        values = layout.with_layout_constraint(values, order)
    return jax.lax.reduce_sum_p.bind(values, **params)


def _in_order(convolve, images, kernel, *, dimension_numbers, **params):
    """Batch, sides, channels; of the kernel sides, channels in and out."""
    left, right, out = dimension_numbers
    if convolve is _as_product and _is_sum(images, kernel, left, right, params):
        found = _sum_over_all(images, kernel, left, right, params)
        return found.transpose(*_order_of(out))
    images = images.transpose(left[0], *left[2:], left[1])
    kernel = kernel.transpose(*right[2:], right[1], right[0])
    found = convolve(images, kernel, params)
    return found.transpose(*_order_of(out))


def _order_of(out) -> list[int]:
    """How batch, sides and channels become the axes that are asked for."""
    order = (out[0], *out[2:], out[1])
    return [order.index(axis) for axis in range(len(order))]


def _is_sum(images, kernel, left, right, params) -> bool:
    """Whether the kernel is as large as the image: there is one place."""
    return (
        [images.shape[axis] for axis in left[2:]]
        == [kernel.shape[axis] for axis in right[2:]]
        and {*itertools.chain(*params["padding"])} == {0}
        and {*_steps(params)} == {1}
    )


def _sum_over_all(images, kernel, left, right, params):
    """One product; axes stay where they are, or large maps would be copied."""
    import jax

    pairs = sorted(zip(left[1:], right[1:], strict=True))
    of_images, of_kernel = zip(*pairs, strict=True)
    found = jax.lax.dot_general(
        images,
        kernel,
        ((of_images, of_kernel), ((), ())),
        precision=params["precision"],
    )
    return found.reshape(len(found), *[1] * len(left[2:]), -1)


def _steps(params):
    return (
        *params["window_strides"],
        *params["lhs_dilation"],
        *params["rhs_dilation"],
        *(params["feature_group_count"], params["batch_group_count"]),
    )


def _convolve(images, kernel, params):
    import jax

    axes = tuple(range(images.ndim))
    last = axes[-1]
    of_images = (0, last, *axes[1:-1])
    plain = jax.lax.ConvDimensionNumbers(
        of_images, (last, last - 1, *axes[:-2]), of_images
    )
    return jax.lax.conv_general_dilated_p.bind(
        images, kernel, dimension_numbers=plain, **params
    )


def _as_product(images, kernel, params):
    """One product where the kernel or the output has few places."""
    import jax.numpy as jnp

    padding = [tuple(sides) for sides in params["padding"]]
    if {*_steps(params)} != {1} or min(itertools.chain(*padding)) < 0:
        return _convolve(images, kernel, params)
    images = jnp.pad(images, [(0, 0), *padding, (0, 0)])
    sides = kernel.shape[:-2]
    places = tuple(
        whole - side + 1
        for whole, side in zip(images.shape[1:-1], sides, strict=True)
    )
    product = functools.partial(jnp.matmul, precision=params["precision"])
    if math.prod(sides) <= _MOST_TAPS:  # places of the kernel side by side
        parts = [_window(images, at, places) for at in _all(sides)]
        return product(
            jnp.concatenate(parts, -1), kernel.reshape(-1, kernel.shape[-1])
        )
    if math.prod(places) <= _MOST_TAPS:  # a gradient of a kernel
        flat = kernel.reshape(-1, kernel.shape[-1])
        found = [
            product(_window(images, at, sides).reshape(len(images), -1), flat)
            for at in _all(places)
        ]
        shape = (len(images), *places, kernel.shape[-1])
        return jnp.stack(found, 1).reshape(shape)
    return _convolve(images, kernel, params)


def _all(sides):
    return itertools.product(*map(range, sides))


def _window(images, at, sides):
    parts = (slice(a, a + side) for a, side in zip(at, sides, strict=True))
    return images[(slice(None), *parts)]
