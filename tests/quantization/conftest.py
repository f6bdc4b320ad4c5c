"""The small network, its int8 file, and images that both have seen."""

import pytest

from gnsmall_keras.data.sources import load_data


@pytest.fixture(scope="session")
def dataset():
    return load_data("digits")


@pytest.fixture(scope="session")
def images(calibration_images):
    return calibration_images


@pytest.fixture(scope="session")
def model(small_network):
    return small_network


@pytest.fixture(scope="session")
def converted(exported_small):
    """The float and the int8 network, before rewriting."""
    return exported_small.conversion
