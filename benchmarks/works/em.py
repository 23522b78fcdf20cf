# mypy: disable-error-code="import-not-found"
"""EM of a Gaussian mixture with full covariances: an iteration (E-step and M-step).

Every side starts from the same weights, means and covariances, and never stops early.
"""

import sys
import time
import types
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.work import Contestant, Options, Work

__all__ = ["WORKS", "data"]


def data(options: Options) -> np.ndarray:
    """Draws from overlapping clusters, shape (N, D)."""
    generator = np.random.default_rng(0)
    num_data, num_features, num_clusters = options["num_data"], options["num_features"], 20
    centers = 0.7 * generator.normal(size=(num_clusters, num_features))
    stretch = generator.normal(size=(num_clusters, num_features, num_features)) / num_features**0.5
    x = np.empty((num_data, num_features), options["dtype"])
    for k, rows in enumerate(np.array_split(np.arange(num_data), num_clusters)):
        noise = generator.normal(size=(len(rows), num_features))
        x[rows] = centers[k] + 0.5 * noise + noise[:, ::-1] @ stretch[k]
    generator.shuffle(x)
    return x


def _start(options: Options, x: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Even weights, some rows as means, and the data's own variances."""
    num_components = options["num_components"]
    weights = np.full(num_components, 1 / num_components)
    covariance = np.diag(np.asarray(x[:10_000], np.float64).var(0))
    return weights, np.asarray(x[:num_components], np.float64), np.tile(covariance, (num_components, 1, 1))


class _Iterations:
    """Timed as many iterations less one, so that checks of the data and the like fall out."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.x: Any = np.load(options["file"], mmap_mode="r") if options.get("file") else data(options)
        self.start = _start(options, self.x)

    def fit(self, num_iterations: int) -> Any:
        """A fit from the common start."""
        raise NotImplementedError

    def loss(self, fitted: Any) -> float:
        """Minus the mean log density of a fit."""
        raise NotImplementedError

    def done(self, fitted: Any, asked: int) -> int:
        """Iterations that a fit has made."""
        return asked

    def run(self, count: int) -> float:
        """Seconds of so many iterations."""
        (self.in_common, few), (long, many) = self._timed(1), self._timed(1 + count)
        return (long - self.in_common) * count / (many - few)

    def _timed(self, num_iterations: int) -> tuple[float, int]:
        start = time.perf_counter()
        fitted = self.fit(num_iterations)
        return time.perf_counter() - start, self.done(fitted, num_iterations)

    def losses(self, count: int) -> list[float]:
        """The loss after so many iterations."""
        return [self.loss(self.fit(count))]

    def memory(self, count: int) -> dict[str, float]:
        """Seconds an iteration of one fit, and the most memory that this process has held, in bytes."""
        seconds, iterations = self._timed(count)
        peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
        return {"seconds": seconds / iterations, "peak": 1024 * int(peak.split()[1])}


class Ours(_Iterations):
    """``lvm.fit_em``."""

    def fit(self, num_iterations: int) -> Any:
        """A fit from the common start."""
        import torch

        import pyrolvm as lvm

        options = self.options
        dtype = getattr(torch, options["dtype"])
        model = lvm.models.GaussianMixture(options["num_components"], options["num_features"]).to(dtype)
        weights, means, covariances = (torch.from_numpy(part).to(dtype) for part in self.start)
        with torch.no_grad():
            model.logits.copy_(weights.log())
            model.locs.copy_(means)
        model.scale_tril = torch.linalg.cholesky(covariances)
        return lvm.fit_em(
            model,
            self.x,
            num_iterations=num_iterations,
            tolerance=0,
            num_restarts=options.get("num_restarts", 0),
            progress=False,
        )

    def done(self, fitted: Any, asked: int) -> int:
        """Iterations that a fit has made: fewer where rounding in float32 made it stop."""
        return int(fitted.num_steps)

    def loss(self, fitted: Any) -> float:
        """Minus the mean log density of a fit."""
        return float(fitted.losses[-1]) / len(self.x)


class ScikitLearn(_Iterations):
    """scikit-learn's ``GaussianMixture``, given its start, so that it runs no k-means."""

    def fit(self, num_iterations: int) -> Any:
        """A fit from the common start."""
        from sklearn.mixture import GaussianMixture

        weights, means, covariances = self.start
        dtype = self.options["dtype"]
        return GaussianMixture(
            self.options["num_components"],
            covariance_type="full",
            tol=0,
            max_iter=num_iterations,
            weights_init=weights.astype(dtype),
            means_init=means.astype(dtype),
            precisions_init=np.linalg.inv(covariances).astype(dtype),
        ).fit(self.x)

    def loss(self, fitted: Any) -> float:
        """Minus the mean log density of a fit."""
        return -float(fitted.score(self.x))


class Pomegranate(_Iterations):
    """pomegranate's ``GeneralMixtureModel`` of ``Normal`` distributions; its checks of the data are off.

    It imports apricot (which selects representative rows) for starts that are not used here; an empty module takes its
    place.
    """

    def __init__(self, options: Options) -> None:
        super().__init__(options)
        import torch

        self.x = torch.from_numpy(self.x)

    def fit(self, num_iterations: int) -> Any:
        """A fit from the common start."""
        _stand_in_for_apricot()
        import torch
        from pomegranate.distributions import Normal
        from pomegranate.gmm import GeneralMixtureModel

        dtype = getattr(torch, self.options["dtype"])
        weights, means, covariances = (torch.tensor(part, dtype=dtype) for part in self.start)  # trained in place
        normals = [Normal(m, c, check_data=False) for m, c in zip(means, covariances, strict=True)]
        model = GeneralMixtureModel(
            normals, priors=weights, max_iter=num_iterations, tol=-float("inf"), check_data=False
        )
        return model.fit(self.x)

    def loss(self, fitted: Any) -> float:
        """Minus the mean log density of a fit."""
        return -float(fitted.log_probability(self.x).double().mean())


def _stand_in_for_apricot() -> None:
    module: Any = types.ModuleType("apricot")
    module.FacilityLocationSelection = module.FeatureBasedSelection = None
    sys.modules.setdefault("apricot", module)


CONTESTANTS = (
    Contestant("pyrolvm", Ours, ("pyrolvm",), in_growth=True),
    Contestant("scikit-learn", ScikitLearn, ("sklearn.mixture",), in_growth=True),
    Contestant("pomegranate", Pomegranate, ("torch",), "torch-peers"),
)


def _work(key: str, dtype: str, target: float, tolerance: float) -> Work:
    return Work(
        key=key,
        title=f"EM, 100,000 x 16, K = 20, full covariances, {dtype}",
        unit="an iteration",
        options={"num_data": 100_000, "num_features": 16, "num_components": 20, "dtype": dtype},
        contestants=CONTESTANTS,
        targets={"scikit-learn": target, "pomegranate": target},
        loss="minus mean log density, nats a row",
        num_checked=(10, 5),
        tail=1.0,
        tolerance=tolerance,
        noise="none",
        most=30,
        note="pomegranate has no regularization of covariances; the others add 1e-6 to the diagonal.",
    )


WORKS = (_work("em", "float64", 3, 1e-4), _work("em-float32", "float32", 5, 1e-3))
