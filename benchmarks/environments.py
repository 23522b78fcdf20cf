"""The peers' environments, made on first use under ``benchmarks/.envs`` from pinned requirements."""

import hashlib
import json
import os
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

__all__ = ["HERE", "STORE", "Unavailable", "python_of", "variables", "versions"]

HERE = Path(__file__).parent
STORE = HERE / ".envs"
_PACKAGES = {
    "own": ("torch", "pyro-ppl", "numpy", "scikit-learn"),
    "numpyro": ("numpyro", "jax", "jaxlib", "funsor"),
    "torch-peers": ("pomegranate", "pythae"),
}
_made: dict[str, Path | str] = {}


class Unavailable(RuntimeError):
    """An environment that cannot be made; the message says why."""


def python_of(environment: str) -> Path:
    """The environment's interpreter; the environment is made where it is missing or out of date.

    Args:
        environment: "own", "numpyro" or "torch-peers".

    Raises:
        Unavailable: If it cannot be made. It is tried once.
    """
    if environment == "own":
        return Path(sys.executable)
    if environment not in _made:
        try:
            _made[environment] = _make(environment)
        except (subprocess.CalledProcessError, OSError) as error:
            lines = (getattr(error, "stderr", None) or str(error)).strip().splitlines()
            _made[environment] = f"not installed: {lines[-1] if lines else 'pip failed'}"
    made = _made[environment]
    if isinstance(made, str):
        raise Unavailable(made)
    return made


def _make(environment: str) -> Path:
    folder, requirements = STORE / environment, HERE / f"requirements-{environment}.txt"
    python, stamp = folder / "bin" / "python", folder / ".installed"
    wanted = hashlib.sha256(requirements.read_bytes() + sys.version.encode() + str(folder).encode()).hexdigest()
    if stamp.exists() and stamp.read_text() == wanted and python.exists():
        return python
    print(f"installing {requirements.name}: a minute or two, once", flush=True)
    venv.create(folder, clear=True, with_pip=True)
    apart = environment == "numpyro"
    if not apart:  # what the project's own environment has, torch above all, is used from there
        purelib = f"lib/python{sys.version_info[0]}.{sys.version_info[1]}/site-packages"
        (folder / purelib / "project.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    command = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r", str(requirements)]
    subprocess.run(command + ([] if apart else ["--no-deps"]), check=True, capture_output=True, text=True)
    stamp.write_text(wanted)
    return python


def variables(cache: Path, threads: int, busy: bool) -> dict[str, str]:
    """Variables of a worker: so many threads on every side, no accelerator, compiled code in one folder.

    Args:
        cache: Folder of torch's and JAX's caches.
        threads: Number of threads.
        busy: Whether OpenMP's threads should wait asleep: by default they spin, and where other work is on the cores,
            small programs of two threads then take ten times as long.
    """
    counted = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")
    found = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
    found |= dict.fromkeys(counted, str(threads))
    found |= {
        "CUDA_VISIBLE_DEVICES": "",
        "JAX_PLATFORMS": "cpu",
        "JAX_COMPILATION_CACHE_DIR": str(cache / "jax"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
        "TORCHINDUCTOR_CACHE_DIR": str(cache / "torch"),
        "XDG_CACHE_HOME": str(cache / "home"),
    }
    return found | ({"OMP_WAIT_POLICY": "passive"} if busy else {})


def versions() -> dict[str, str]:
    """Versions of the peers, by package; "not installed" where there is none."""
    found: dict[str, str] = {}
    for environment, packages in _PACKAGES.items():
        program = (
            "import importlib.metadata as m, json, sys\n"
            "print(json.dumps({name: m.version(name) for name in sys.argv[1:]}))"
        )
        try:
            command = [str(python_of(environment)), "-c", program, *packages]
            found |= json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
        except (Unavailable, subprocess.CalledProcessError):
            found |= dict.fromkeys(packages, "not installed")
    return found
