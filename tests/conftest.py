"""Settings that every test needs before Keras is imported."""

import os

import pytest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# On a GPU callbacks look at several steps together, which tests count.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
# The tests' JAX programs run once; compiling them quickly matters more.
os.environ.setdefault(
    "XLA_FLAGS",
    "--xla_backend_optimization_level=0 "
    "--xla_llvm_disable_expensive_passes=true",
)


@pytest.fixture
def float64():
    """Weights and computation in double precision."""
    _set_precision("float64")
    yield
    _set_precision("float32")


def _set_precision(dtype):
    import keras

    keras.config.set_floatx(dtype)
    keras.config.set_dtype_policy(dtype)
    if keras.config.backend() == "jax":
        import jax

        jax.config.update("jax_enable_x64", dtype == "float64")
