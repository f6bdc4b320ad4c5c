"""The compiled kernels, for all tests of them."""

import pytest

from gnsmall_keras.native import build


@pytest.fixture(scope="module")
def compiled():
    """Skips where there is no compiler."""
    try:
        return build.library()
    except build.NativeUnavailable as error:
        pytest.skip(str(error))
