"""Chunks of steps as programs of JAX, for one run or for several alike."""

import contextlib
import functools
from collections.abc import Iterator
from typing import Any

from gnsmall_keras.distill.distiller import Distiller
from gnsmall_keras.models import keras_private, kernels
from gnsmall_keras.training.scan.canonical import rewritten
from gnsmall_keras.training.scan.images import make_batch

# What several runs have each for itself; they share all other data.
OWN = ("rows", "logits", "peak_learning_rate", "label_smoothing")
State = tuple[list[Any], ...]


class Programs:
    """What is compiled: the Distiller's own steps, many in one program.

    Args:
        model: compiled; of several runs any, for they are alike.
        runs: how many; all arrays of their state have an axis in front.
        same_teachers: whether several runs have the same.
    """

    def __init__(
        self, model: Distiller, *, runs: int = 1, same_teachers: bool = True
    ):
        import jax

        self._model = model
        self._train_step, self._test_step = model.train_step, model.test_step
        self._on_gpu = on_gpu = kernels.is_jax_on_gpu()
        if runs > 1 or not on_gpu:
            self._train_step, self._test_step = (
                rewritten(step, products=on_gpu, ordered=on_gpu)
                for step in (model.train_step, model.test_step)
            )
        self._runs = runs
        self._same_teachers = same_teachers
        options = {"static_argnames": ("shape", "length"), "donate_argnums": 0}
        self.train = jax.jit(self._train, **options)
        self.test = jax.jit(self._test, **options)
        self.join = jax.jit(joined)
        self.part = jax.jit(_part)

    def _train(self, state, frozen, data, plan, first, *, shape, length):
        """Trains on `length` steps of a plan, from `first` on.

        Returns:
            The logs after the last step, and the state.
        """
        chunk = self._chunk(self._train_step, first, shape, length)
        return self._of_all(chunk, data, 0)(state, frozen, data, plan)

    def _test(self, state, frozen, data, plan, first, *, shape, length):
        """Validates on them; the plan is the same for all runs."""
        chunk = self._chunk(self._test_step, first, shape, length)
        return self._of_all(chunk, data, None)(state, frozen, data, plan)

    def _chunk(self, step, first, shape, length):
        import jax

        def chunk(state, frozen, data, plan):
            steps = {
                name: jax.lax.dynamic_slice_in_dim(values, first, length)
                for name, values in plan.items()
            }
            body = functools.partial(self._body, step, frozen, data, shape)
            with _tuned(self._model, data):
                state, logs = jax.lax.scan(body, state, steps)
            return {name: values[-1] for name, values in logs.items()}, state

        return chunk

    def _of_all(self, chunk, data, of_plan):
        """The chunk of all runs; axes are those that they have in front."""
        import jax

        if self._runs == 1:
            return chunk
        if not self._on_gpu:
            return self._in_turn(chunk, of_plan)
        of_data = {name: 0 if name in OWN else None for name in data}
        of_frozen = None if self._same_teachers else 0
        return jax.vmap(chunk, in_axes=(0, of_frozen, of_data, of_plan))

    def _in_turn(self, chunk, of_plan):
        """Each run after the other, as a CPU is fastest: bit for bit alone."""
        import jax

        def chunks(state, frozen, data, plan):
            own = {"data": {n: v for n, v in data.items() if n in OWN}}
            own["state"] = state
            if not self._same_teachers:
                own["frozen"] = frozen
            if of_plan is not None:
                own["plan"] = plan

            def one(own):
                return chunk(
                    own["state"],
                    own.get("frozen", frozen),
                    {**data, **own["data"]},
                    own.get("plan", plan),
                )

            return jax.lax.map(one, own)

        return chunks

    def _body(self, step, frozen, data, shape, state, arrays):
        import jax

        trainable, own, *others = state
        # Not fused into the step, which would add up in another order.
        batch = jax.lax.optimization_barrier(make_batch(data, arrays, shape))
        logs, state = step((trainable, [*own, *frozen], *others), batch)
        trainable, moved, *others = state
        return (trainable, moved[: len(own)], *others), logs


def own_variables(model: Distiller) -> list[Any]:
    """Variables that are not trained, without the teachers'."""
    teachers = model.teacher.variables if model.teacher else []
    variables = model.non_trainable_variables
    return variables[: len(variables) - len(teachers)]


def state_of(model: Distiller, *, optimizer: bool = True) -> State:
    """Returns a model's values as a step has them, without the teachers'."""
    kinds = [model.trainable_variables, own_variables(model)]
    if optimizer:
        kinds.append(model.optimizer.variables)
    kinds.append(model.metrics_variables)
    return tuple([v.value for v in variables] for variables in kinds)


@contextlib.contextmanager
def _tuned(model, data) -> Iterator[None]:
    """Puts a run's own numbers in the place of the first one's.

    While the step is traced: numbers become arguments of the program.
    """
    optimizer = model.optimizer
    optimizer = getattr(optimizer, "inner_optimizer", optimizer)
    places = {
        "peak_learning_rate": keras_private.schedule_of(optimizer),
        "label_smoothing": model.loss,
    }
    used = {name: place for name, place in places.items() if name in data}
    before = {name: getattr(place, name) for name, place in used.items()}
    for name, place in used.items():
        setattr(place, name, data[name])
    try:
        yield
    finally:
        for name, place in used.items():
            setattr(place, name, before[name])


def joined(states: Any) -> Any:
    """Returns states of several runs as one, with an axis in front."""
    import jax
    import jax.numpy as jnp

    return jax.tree.map(lambda *values: jnp.stack(values), *states)


def _part(stacked, run):
    import jax

    return jax.tree.map(lambda values: values[run], stacked)
