"""A file of each width that is looked into, and what it was made of."""

import pytest
from support import network_with_moments

from gnsmall_keras.quantization.calibration import calibration_split


@pytest.fixture(
    scope="session", params=[0.25, pytest.param(1.0, marks=pytest.mark.slow)]
)
def width(request):
    return request.param


@pytest.fixture(scope="session")
def conversion(request, width, real_data, tmp_path_factory):
    """The file, its report, and what the converter made before rewriting."""
    if width == 0.25:
        return request.getfixturevalue("exported_small")
    export = request.getfixturevalue("export")
    model = network_with_moments(real_data, width=width)
    folder = tmp_path_factory.mktemp("export")
    return export(model, folder, calibration_split(real_data, 50))


@pytest.fixture(scope="session")
def exported(conversion):
    return conversion.path, conversion.report


@pytest.fixture(scope="session")
def converted(conversion):
    return conversion.conversion.data
