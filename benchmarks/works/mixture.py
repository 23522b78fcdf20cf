# mypy: disable-error-code="import-not-found"
"""A Bayesian mixture of Gaussians, its components enumerated: a step of SVI on the globals.

weights ~ Dirichlet(1), loc_k ~ N(0, 5^2), scale_k ~ LogNormal(0, 1), z_n ~ Categorical(weights), x_n ~ N(loc_z,
scale_z^2).
"""

from typing import Any

import numpy as np

from benchmarks.work import Contestant, Options, Runner, Work
from benchmarks.works.fits import LEARNING_RATE, OURS, EagerSteps, Fits, Scans

__all__ = ["WORKS"]

CENTERS = np.array([[-3.0, 0.0], [3.0, 1.0], [0.0, -4.0]])


def _data(options: Options) -> np.ndarray:
    """Draws from three round clusters, shape (N, 2)."""
    generator = np.random.default_rng(0)
    z = generator.integers(0, 3, size=options["num_data"])
    noise = generator.normal(size=(options["num_data"], 2))
    return (CENTERS[z] + noise).astype(np.float32)


def _start() -> dict[str, np.ndarray]:
    """Where guides start: near the clusters."""
    values = {"weights": np.full(3, 1 / 3), "loc": CENTERS + 0.5, "scale": np.full((3, 2), 1.5)}
    return {name: value.astype(np.float32) for name, value in values.items()}


def _pyro_program() -> tuple[Any, Any]:
    """The model as a Pyro program, and the guide's initial values."""
    import pyro
    import pyro.distributions as dist
    import torch
    from pyro.infer.autoguide import init_to_value

    def model(x: torch.Tensor) -> None:
        weights = pyro.sample("weights", dist.Dirichlet(torch.ones(3)))
        with pyro.plate("components", 3):
            loc = pyro.sample("loc", dist.Normal(0.0, 5.0).expand([2]).to_event(1))
            scale = pyro.sample("scale", dist.LogNormal(0.0, 1.0).expand([2]).to_event(1))
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Categorical(weights), infer={"enumerate": "parallel"})
            pyro.sample("x", dist.Normal(loc[z], scale[z]).to_event(1), obs=x)

    return model, init_to_value(values={name: torch.from_numpy(value) for name, value in _start().items()})


def ours(options: Options) -> Runner:
    """``lvm.fit`` of the Pyro program and ``lvm.guides.MeanField`` or ``FullRank``."""
    import torch

    import pyrolvm as lvm

    family = lvm.guides.FullRank if options["full_rank"] else lvm.guides.MeanField

    def build() -> tuple[Any, Any]:
        model, start = _pyro_program()
        return model, family(model, init_loc_fn=start)

    x = torch.from_numpy(_data(options))
    return Fits(build, x, compile=options["compile"], scale=len(x), objective=lvm.objectives.ELBO())


def pyro_svi(options: Options) -> Runner:
    """Pyro's ``SVI.step`` with ``TraceEnum_ELBO`` and an autoguide of the globals; validation is off."""
    import pyro
    import torch
    from pyro import poutine  # noqa: TID251  a program of Pyro's own
    from pyro.infer import SVI, TraceEnum_ELBO
    from pyro.infer.autoguide import AutoMultivariateNormal, AutoNormal

    pyro.enable_validation(False)
    x = torch.from_numpy(_data(options))
    family = AutoMultivariateNormal if options["full_rank"] else AutoNormal

    def build() -> Any:
        pyro.clear_param_store()
        torch.manual_seed(1)
        model, start = _pyro_program()
        guide = family(poutine.block(model, hide=["z"]), init_loc_fn=start)
        svi = SVI(model, guide, pyro.optim.Adam({"lr": LEARNING_RATE}), TraceEnum_ELBO(max_plate_nesting=1))  # type: ignore[attr-defined]
        return lambda: svi.step(x) / len(x)

    return EagerSteps(build)


def numpyro_scan(options: Options) -> Runner:
    """NumPyro's ``svi.update`` in a compiled ``lax.scan``, with ``TraceEnum_ELBO`` and an autoguide of the globals.

    The components are an event rather than a plate, the same density: with the plate, NumPyro's full-rank autoguide
    fails here (``KeyError: 'components'``).
    """
    import jax.numpy as jnp
    import numpyro
    import numpyro.distributions as dist
    from numpyro.infer import SVI, TraceEnum_ELBO
    from numpyro.infer.autoguide import AutoMultivariateNormal, AutoNormal
    from numpyro.infer.initialization import init_to_value

    def model(x: Any) -> None:
        weights = numpyro.sample("weights", dist.Dirichlet(jnp.ones(3)))
        loc = numpyro.sample("loc", dist.Normal(0.0, 5.0).expand([3, 2]).to_event(2))
        scale = numpyro.sample("scale", dist.LogNormal(0.0, 1.0).expand([3, 2]).to_event(2))
        with numpyro.plate("data", len(x)):
            z = numpyro.sample("z", dist.Categorical(weights), infer={"enumerate": "parallel"})
            numpyro.sample("x", dist.Normal(loc[z], scale[z]).to_event(1), obs=x)

    family = AutoMultivariateNormal if options["full_rank"] else AutoNormal
    start = init_to_value(values={name: jnp.asarray(value) for name, value in _start().items()})
    guide = family(numpyro.handlers.block(model, hide=["z"]), init_loc_fn=start)
    svi = SVI(model, guide, numpyro.optim.Adam(LEARNING_RATE), TraceEnum_ELBO(max_plate_nesting=1))
    return Scans(svi, _data(options), None, block=max(1, 200_000 // options["num_data"]), scale=options["num_data"])


CONTESTANTS = (
    Contestant("pyrolvm", ours, OURS, options={"compile": True}, compiles=True, in_growth=True),
    Contestant("pyrolvm, not compiled", ours, OURS, options={"compile": False}),
    Contestant("Pyro", pyro_svi, ("pyro.infer.autoguide",)),
    Contestant("NumPyro", numpyro_scan, ("numpyro.contrib.funsor",), "numpyro", compiles=True, in_growth=True),
)


def _work(key: str, family: str, full_rank: bool) -> Work:
    return Work(
        key=key,
        title=f"Enumerated Gaussian mixture, N = 1,000, K = 3, D = 2, {family}",
        unit="a step",
        options={"num_data": 1000, "full_rank": full_rank},
        contestants=CONTESTANTS,
        targets={"Pyro": 40, "NumPyro": 1},
        loss="minus ELBO, nats a row",
        num_checked=(3000, 600),
        tolerance=0.003,
        first=True,
    )


WORKS = (_work("mixture", "mean-field", False), _work("mixture-full-rank", "full-rank", True))
