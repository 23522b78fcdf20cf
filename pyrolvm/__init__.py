"""Latent variable models in Pyro, with answers that can be checked."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pyrolvm import (
        comparison,
        datasets,
        diagnostics,
        estimators,
        evidence,
        guides,
        likelihoods,
        models,
        nn,
        objectives,
        pictures,
        priors,
    )
    from pyrolvm.comparison import Comparison
    from pyrolvm.comparison.compare import compare  # by its file: mypy takes the package's name for the module
    from pyrolvm.fitting import FitResult, fit_em, load
    from pyrolvm.fitting.fit import fit
    from pyrolvm.posterior import Imputation
    from pyrolvm.posterior.features import features
    from pyrolvm.posterior.impute import impute
    from pyrolvm.programs import CheckReport, bind, check, data_plate, minibatch
    from pyrolvm.weights import LogWeights, log_weights, marginals

__version__ = "0.1.0"

__all__ = [
    "CheckReport",
    "Comparison",
    "FitResult",
    "Imputation",
    "LogWeights",
    "bind",
    "check",
    "compare",
    "comparison",
    "data_plate",
    "datasets",
    "diagnostics",
    "estimators",
    "evidence",
    "features",
    "fit",
    "fit_em",
    "guides",
    "impute",
    "likelihoods",
    "load",
    "log_weights",
    "marginals",
    "minibatch",
    "models",
    "nn",
    "objectives",
    "pictures",
    "priors",
]

# Rooms are opened when a name of theirs is first used, so that the command line answers before torch is loaded.
_ROOMS = {
    "pyrolvm.comparison": ("Comparison", "compare"),
    "pyrolvm.fitting": ("FitResult", "fit", "fit_em", "load"),
    "pyrolvm.posterior": ("Imputation", "features", "impute"),
    "pyrolvm.programs": ("CheckReport", "bind", "check", "data_plate", "minibatch"),
    "pyrolvm.weights": ("LogWeights", "log_weights", "marginals"),
}
_HOMES = {name: room for room, names in _ROOMS.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'pyrolvm' has no attribute '{name}'")
    found = getattr(import_module(_HOMES[name]), name) if name in _HOMES else import_module(f"pyrolvm.{name}")
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
