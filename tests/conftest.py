"""What holds for the tests: float64, and a device that is there.

Docstring examples are left in float32, as their readers will run them.
"""

from collections.abc import Iterator

import pytest
import torch

from pyrolvm.fitting import pacing
from pyrolvm.fitting.captured import CapturedStep


@pytest.fixture(scope="module", autouse=True)
def _float64_in_this_module() -> Iterator[None]:
    """Make float64 the default for a whole module, so that its module-wide fixtures have it too.

    What a test module builds while it is imported (a table of cases, say) comes before any fixture: put constructors
    there, not tensors.
    """
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


@pytest.fixture(autouse=True)
def _float64(_float64_in_this_module: None) -> None:
    """Start each test in float64, whatever the one before it set: a test about float32 need not undo it."""
    torch.set_default_dtype(torch.float64)


@pytest.fixture(scope="session", autouse=True)
def _own_compiler_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Compile afresh, and only where a test asks for it: "auto" believes that compiling takes an hour."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path_factory.mktemp("compiled")))
        patch.setattr(pacing, "_COLD_SECONDS", 3600.0)
        yield


@pytest.fixture
def interpreted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Run captured steps operation by operation, so that no test waits for a compiler."""
    monkeypatch.setattr(CapturedStep, "compile", lambda self: None)


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest) -> torch.device:
    """Run the test once for each kind of device."""
    return torch.device(request.param)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what is marked `gpu` where there is no CUDA device, and say so."""
    if torch.cuda.is_available():
        return
    skip = pytest.mark.skip(reason="no CUDA device on this machine")
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(skip)
