"""Trains on two devices, which are set up before a framework starts.

Usage: python two_devices.py RESULT.npz
"""

import contextlib
import sys

import keras
import numpy as np
from plain_distillation import (
    BACKEND,
    TERMS,
    assert_untouched,
    compiled,
    examples,
    fit,
    make_student,
    make_teacher,
)

from gnsmall_keras.models.ghostnet import ghostnetv3_small
from gnsmall_keras.native.choice import is_on_cpu

# Both distributions split the batch of 8 into two parts.
# Of TensorFlow each replica has its own batch statistics, unless it is told to
# synchronise them; JAX computes those of the whole batch.
DEVICE_CASES = {
    "no norm": {"norm": False},
    "norm": {"synchronized": BACKEND == "tensorflow"},
}


def _train_on_two_devices(result):
    """What the script does, for each case: one epoch of 3 steps, twice."""
    scope = _two_devices()
    arrays = {}
    for case, options in DEVICE_CASES.items():
        with scope():
            teacher = make_teacher()
            distiller = compiled(teacher, make_student(**options))
        history = fit(distiller, *examples(24), epochs=1)
        arrays |= {f"{case}/{name}": history[name] for name in TERMS}
        for index, weight in enumerate(distiller.student.get_weights()):
            arrays[f"{case}/weight{index}"] = weight
        assert_untouched(teacher)
        distiller.label_weight.assign(1.0)
        history = fit(distiller, *examples(24), epochs=1)
        arrays[f"{case}/labels_only"] = [history[name][0] for name in TERMS]
    with scope():
        student = ghostnetv3_small(0.25, input_shape=(8, 8, 3))
    # Native kernels would train each part of a batch by itself.
    arrays["alone"] = is_on_cpu(student)
    np.savez(result, **arrays)


def _two_devices():
    """Sets two devices up; returns what makes the scope of a model."""
    if BACKEND == "tensorflow":
        import tensorflow as tf

        cpu = tf.config.list_physical_devices("CPU")[0]
        part = tf.config.LogicalDeviceConfiguration()
        tf.config.set_logical_device_configuration(cpu, [part, part])
        strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
        assert strategy.num_replicas_in_sync == 2
        return strategy.scope
    distribution = keras.distribution.DataParallel()
    assert distribution.device_mesh.devices.size == 2
    keras.distribution.set_distribution(distribution)
    return contextlib.nullcontext


if __name__ == "__main__":
    _train_on_two_devices(sys.argv[1])
