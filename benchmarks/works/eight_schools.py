# mypy: disable-error-code="import-not-found"
"""Eight schools, non-centered, with a mean-field guide: a step of SVI.

The arithmetic is next to nothing, so what is timed is what a framework adds to it.
"""

from typing import Any

from benchmarks.work import Contestant, Options, Runner, Work
from benchmarks.works.fits import LEARNING_RATE, OURS, EagerSteps, Fits, Scans

__all__ = ["WORKS"]

Y = [28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0]
SIGMA = [15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0]
START = {"mu": 0.0, "tau": 1.0, "theta_raw": [0.0] * 8}


def _pyro_program() -> tuple[Any, Any]:
    """The model as a Pyro program, and the guide's initial values."""
    import pyro
    import pyro.distributions as dist
    import torch
    from pyro.infer.autoguide import init_to_value

    y, sigma = torch.tensor(Y), torch.tensor(SIGMA)

    def model() -> None:
        mu = pyro.sample("mu", dist.Normal(0.0, 5.0))
        tau = pyro.sample("tau", dist.HalfCauchy(5.0))
        with pyro.plate("schools", 8):
            theta_raw = pyro.sample("theta_raw", dist.Normal(0.0, 1.0))
            pyro.sample("y", dist.Normal(mu + tau * theta_raw, sigma), obs=y)

    return model, init_to_value(values={name: torch.tensor(value) for name, value in START.items()})


def ours(options: Options) -> Runner:
    """``lvm.fit`` of the Pyro program and ``lvm.guides.MeanField``."""
    import pyrolvm as lvm

    def build() -> tuple[Any, Any]:
        model, start = _pyro_program()
        return model, lvm.guides.MeanField(model, init_loc_fn=start)

    return Fits(build, None, compile=options["compile"], objective=lvm.objectives.ELBO(options["num_particles"]))


def pyro_svi(options: Options) -> Runner:
    """Pyro's ``SVI.step`` with ``AutoNormal`` and ``Trace_ELBO``; validation is off, which is its fastest."""
    import pyro
    import torch
    from pyro.infer import SVI, Trace_ELBO
    from pyro.infer.autoguide import AutoNormal

    pyro.enable_validation(False)
    num_particles = options["num_particles"]

    def build() -> Any:
        pyro.clear_param_store()
        torch.manual_seed(1)
        model, start = _pyro_program()
        guide = AutoNormal(model, init_loc_fn=start)
        loss = Trace_ELBO(num_particles, max_plate_nesting=1, vectorize_particles=num_particles > 1)
        return SVI(model, guide, pyro.optim.Adam({"lr": LEARNING_RATE}), loss).step  # type: ignore[attr-defined]

    return EagerSteps(build)


def numpyro_scan(options: Options) -> Runner:
    """NumPyro's ``svi.update`` in a compiled ``lax.scan``, with ``AutoNormal`` and ``Trace_ELBO``."""
    import jax.numpy as jnp
    import numpyro
    import numpyro.distributions as dist
    from numpyro.infer import SVI, Trace_ELBO
    from numpyro.infer.autoguide import AutoNormal
    from numpyro.infer.initialization import init_to_value

    y, sigma = jnp.array(Y), jnp.array(SIGMA)

    def model() -> None:
        mu = numpyro.sample("mu", dist.Normal(0.0, 5.0))
        tau = numpyro.sample("tau", dist.HalfCauchy(5.0))
        with numpyro.plate("schools", 8):
            theta_raw = numpyro.sample("theta_raw", dist.Normal(0.0, 1.0))
            numpyro.sample("y", dist.Normal(mu + tau * theta_raw, sigma), obs=y)

    guide = AutoNormal(model, init_loc_fn=init_to_value(values={n: jnp.array(v) for n, v in START.items()}))
    svi = SVI(model, guide, numpyro.optim.Adam(LEARNING_RATE), Trace_ELBO(options["num_particles"]))
    return Scans(svi, None, None, block=1000)


CONTESTANTS = (
    Contestant("pyrolvm", ours, OURS, options={"compile": True}, compiles=True, in_growth=True),
    Contestant("pyrolvm, not compiled", ours, OURS, options={"compile": False}),
    Contestant("Pyro", pyro_svi, ("pyro.infer.autoguide",)),
    Contestant("NumPyro", numpyro_scan, ("numpyro.infer.autoguide",), "numpyro", compiles=True, in_growth=True),
)


def _work(num_particles: int, targets: dict[str, float]) -> Work:
    particles = "1 particle" if num_particles == 1 else f"{num_particles} particles"
    return Work(
        key=f"eight-schools-{num_particles}",
        title=f"Eight schools, mean-field, {particles}",
        unit="a step",
        options={"num_particles": num_particles},
        contestants=CONTESTANTS,
        targets=targets,
        loss="minus ELBO, nats",
        num_checked=(4000, 1000),
        tolerance=0.02,
        first=num_particles == 1,
    )


WORKS = (_work(1, {"Pyro": 100, "NumPyro": 1}), _work(10, {"Pyro": 100, "NumPyro": 1.5}))
