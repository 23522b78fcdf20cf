"""What the tests of read() share."""

import numpy as np
import pytest

from pyrolvm.datasets import read


@pytest.fixture
def refuses():
    """Return a function that holds read() to an error of this very type, with this message, on one line."""

    def check(path, message, *, error=ValueError, **options):
        with pytest.raises(error, match=message) as caught:
            read(path, **options)
        assert "\n" not in str(caught.value)
        assert type(caught.value) is error

    return check


@pytest.fixture
def csv(tmp_path):
    """Return a function that writes a CSV file."""

    def write(text):
        path = tmp_path / "a.csv"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return write


@pytest.fixture
def npy(tmp_path):
    """Return a function that writes an NPY file."""

    def write(array):
        np.save(tmp_path / "a.npy", array)
        return tmp_path / "a.npy"

    return write
