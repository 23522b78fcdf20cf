"""Reference posteriors of the Bayesian models, by NUTS in NumPyro: writes `pyrolvm/datasets/data/posteriors`.

`.venv/bin/python -m benchmarks.reference_posteriors` runs all of them, in about ten minutes on a core of its own;
`... garch item_response` some. NumPyro is installed in an environment of its own on first use.
"""

import argparse
import json
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from arviz_stats.base import array_stats

import pyrolvm as lvm
from benchmarks.environments import STORE, python_of, variables

__all__ = ["main"]

FOLDER = Path(lvm.datasets.__file__).parent / "data" / "posteriors"
_SETTINGS: dict[str, Any] = {"chains": 4, "warmup": 2000, "draws": 10_000, "acceptance": 0.9}
_OTHER_SETTINGS: dict[str, dict[str, Any]] = {
    "gp_poisson_regression": {"acceptance": 0.98, "draws": 5000},
    "item_response": {"warmup": 1000, "draws": 3000},
}
_INTERNAL = {"item_response": ("theta_raw", "a_raw", "b_raw")}


def _names() -> list[str]:
    """One entry for both forms of eight schools, which have the same posterior."""
    return sorted(
        {name.replace("_noncentered", "").replace("_centered", "") for name in lvm.datasets.reference_names()}
    )


def _run(name: str, seed: int) -> tuple[dict[str, Any], str]:
    """Draws by site, chains first, and how they were made."""
    reference = name if name in lvm.datasets.reference_names() else f"{name}_noncentered"
    script = Path(__file__).with_name("numpyro_posteriors.py")
    options = _SETTINGS | _OTHER_SETTINGS.get(name, {}) | {"seed": seed}
    with tempfile.TemporaryDirectory() as folder:
        data, output = Path(folder) / "data.npz", Path(folder) / "draws.npz"
        np.savez(data, *lvm.datasets.references.arguments_of(reference))
        flags = [text for key, value in options.items() for text in (f"--{key}", str(value))]
        command = [str(python_of("numpyro")), str(script), name, str(data), str(output), *flags]
        subprocess.run(command, check=True, env=variables(STORE / "cache", 1, True))
        with np.load(output) as file:
            draws = {key: file[key] for key in file.files if key not in _INTERNAL.get(name, ())}
    return draws, (
        f"NUTS in NumPyro {draws.pop('version')}: {options['chains']} chains of {options['draws']} draws after "
        f"{options['warmup']} of warm-up, target acceptance {options['acceptance']}, seed {seed}; "
        f"{draws.pop('divergences')} divergences"
    )


def _rounded(values: Any, digits: int) -> Any:
    return np.vectorize(lambda value: float(f"{value:.{digits}g}"))(values).tolist()


def _summary(draws: Any) -> dict[str, Any]:
    """Means, standard deviations, their errors, R-hat and ESS of one site."""
    axes: dict[str, Any] = {"chain_axis": 0, "draw_axis": 1}
    return {
        "mean": _rounded(draws.mean((0, 1)), 8),
        "sd": _rounded(draws.std((0, 1), ddof=1), 8),
        "mcse_mean": _rounded(array_stats.mcse(draws, method="mean", **axes), 3),
        "mcse_sd": _rounded(array_stats.mcse(draws, method="sd", **axes), 3),
        "rhat": _rounded(array_stats.rhat(draws, method="rank", **axes), 6),
        "ess_bulk": _rounded(array_stats.ess(draws, method="bulk", **axes), 5),
        "ess_tail": _rounded(array_stats.ess(draws, method="tail", prob=(0.05, 0.95), **axes), 5),
    }


def main() -> None:
    """Run the chains and write one JSON file for each model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", choices=[[], *_names()], default=[], help="models; all where none is given")
    parser.add_argument("--seed", type=int, default=0, help="seed of the chains")
    options = parser.parse_args()
    FOLDER.mkdir(exist_ok=True)
    for name in options.names or _names():
        draws, source = _run(name, options.seed)
        sites = {site: _summary(values) for site, values in draws.items()}
        (FOLDER / f"{name}.json").write_text(json.dumps({"source": source, "sites": sites}, indent=1) + "\n")
        worst = max(float(np.max(site["rhat"])) for site in sites.values())
        fewest = min(float(np.min([site["ess_bulk"], site["ess_tail"]])) for site in sites.values())
        print(f"{name}: R-hat at most {worst:.4f}, ESS at least {fewest:.0f}; {source}", flush=True)


if __name__ == "__main__":
    main()
