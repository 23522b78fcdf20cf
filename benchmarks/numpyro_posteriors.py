# mypy: disable-error-code="import-not-found"
"""The Bayesian models of the collection written a second time, in NumPyro, and NUTS on one of them.

Run by `reference_posteriors.py` in NumPyro's own environment; it knows nothing of pyrolvm.
"""

import argparse
import os
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["main"]


def _models() -> dict[str, Any]:
    """The models by name; densities as in posteriordb's Stan programs."""
    import jax
    import jax.numpy as jnp
    import numpyro
    import numpyro.distributions as dist

    def positive(name: str, scale: float, family: Any = dist.HalfCauchy, **event: Any) -> Any:
        return numpyro.sample(name, family(jnp.full(event.get("shape", ()), scale)))

    def autoregression(y: Any) -> None:
        alpha = numpyro.sample("alpha", dist.Normal(0, 10))
        beta = numpyro.sample("beta", dist.Normal(jnp.zeros(5), 10))
        sigma = positive("sigma", 2.5)
        loc = alpha + sum(beta[k] * y[4 - k : len(y) - 1 - k] for k in range(5))
        numpyro.sample("y", dist.Normal(loc, sigma), obs=y[5:])

    def eight_schools(y: Any, sigma: Any) -> None:
        mu = numpyro.sample("mu", dist.Normal(0, 5))
        tau = positive("tau", 5.0)
        raw = numpyro.sample("theta_raw", dist.Normal(jnp.zeros(8), 1))
        numpyro.sample("y", dist.Normal(numpyro.deterministic("theta", mu + tau * raw), sigma), obs=y)

    def garch(y: Any) -> None:
        mu = numpyro.sample("mu", dist.ImproperUniform(dist.constraints.real, (), ()))
        alpha0 = numpyro.sample("alpha0", dist.ImproperUniform(dist.constraints.positive, (), ()))
        alpha1 = numpyro.sample("alpha1", dist.Uniform(0, 1))
        share = numpyro.sample("share", dist.Uniform(0, 1))
        numpyro.factor("jacobian", jnp.log1p(-alpha1))  # the density is flat in (alpha1, beta1)
        beta1 = numpyro.deterministic("beta1", (1 - alpha1) * share)

        def step(variance: Any, value: Any) -> Any:
            return alpha0 + alpha1 * (value - mu) ** 2 + beta1 * variance, variance

        _, variances = jax.lax.scan(step, jnp.array(0.25), y)
        numpyro.sample("y", dist.Normal(mu, jnp.sqrt(variances)), obs=y)

    def gp_poisson_regression(y: Any, x: Any) -> None:
        rho = numpyro.sample("rho", dist.Gamma(25, 4))
        alpha = positive("alpha", 2.0, dist.HalfNormal)
        f_tilde = numpyro.sample("f_tilde", dist.Normal(jnp.zeros(len(x)), 1))
        distance = x[:, None] - x[None, :]
        covariance = alpha**2 * jnp.exp(-(distance**2) / (2 * rho**2)) + 1e-10 * jnp.eye(len(x))
        f = numpyro.deterministic("f", jnp.linalg.cholesky(covariance) @ f_tilde)
        numpyro.sample("y", dist.Poisson(jnp.exp(f)), obs=y)

    def item_response(y: Any) -> None:
        sigma_theta, sigma_a, sigma_b = (positive(f"sigma_{name}", 2.0) for name in ("theta", "a", "b"))
        mu_b = numpyro.sample("mu_b", dist.Normal(0, 5))
        # the same density by standardized latents, in which chains mix better
        theta = sigma_theta * numpyro.sample("theta_raw", dist.Normal(jnp.zeros(y.shape[0]), 1))
        a = jnp.exp(sigma_a * numpyro.sample("a_raw", dist.Normal(jnp.zeros(y.shape[1]), 1)))
        b = mu_b + sigma_b * numpyro.sample("b_raw", dist.Normal(jnp.zeros(y.shape[1]), 1))
        for name, value in (("theta", theta[:, None]), ("a", a), ("b", b)):
            numpyro.deterministic(name, value)
        numpyro.sample("y", dist.Bernoulli(logits=a * (theta[:, None] - b)), obs=y)

    def linear_regression(y: Any, x: Any) -> None:
        beta = numpyro.sample("beta", dist.Normal(jnp.zeros(x.shape[1]), 10))
        numpyro.sample("y", dist.Normal(x @ beta, positive("sigma", 10.0, dist.HalfNormal)), obs=y)

    def logistic_regression(y: Any, x: Any) -> None:
        alpha = numpyro.sample("alpha", dist.Normal(0, 2.5))
        beta = numpyro.sample("beta", dist.Normal(jnp.zeros(x.shape[1]), 2.5))
        numpyro.sample("y", dist.Bernoulli(logits=alpha + x @ beta), obs=y)

    def ordered_mixture(y: Any) -> None:
        mu = numpyro.sample("mu", dist.ImproperUniform(dist.constraints.ordered_vector, (), (2,)))
        numpyro.factor("mu_prior", dist.Normal(0, 2).log_prob(mu).sum())
        sigma = positive("sigma", 2.0, dist.HalfNormal, shape=(2,))
        theta = numpyro.sample("theta", dist.Beta(5, 5))
        first, second = (dist.Normal(mu[k], sigma[k]).log_prob(y) for k in (0, 1))
        numpyro.factor("y", jnp.logaddexp(jnp.log(theta) + first, jnp.log1p(-theta) + second).sum())

    def two_state_hmm(y: Any) -> None:
        theta1, theta2 = (numpyro.sample(f"theta{k}", dist.Dirichlet(jnp.ones(2))) for k in (1, 2))
        mu = numpyro.sample("mu", dist.ImproperUniform(dist.constraints.positive_ordered_vector, (), (2,)))
        numpyro.factor("mu_prior", dist.Normal(jnp.array([3.0, 10.0]), 1).log_prob(mu).sum())
        rows = jnp.log(jnp.stack([theta1, theta2]))
        emission = dist.Normal(mu, 1).log_prob(y[:, None])

        def step(forward: Any, at: Any) -> Any:
            return jax.nn.logsumexp(forward[:, None] + rows, 0) + at, None

        last, _ = jax.lax.scan(step, emission[0], emission[1:])
        numpyro.factor("y", jax.nn.logsumexp(last))

    return {model.__name__: model for model in list(locals().values()) if getattr(model, "__code__", None)}


def main() -> None:
    """Run NUTS and write all draws, chains first, and the number of divergences."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", help="of the model")
    parser.add_argument("data", type=Path, help="npz file of the model's arguments, in order")
    parser.add_argument("output", type=Path, help="npz file of the draws")
    parser.add_argument("--chains", type=int, default=4)
    parser.add_argument("--warmup", type=int, default=2000)
    parser.add_argument("--draws", type=int, default=10_000)
    parser.add_argument("--acceptance", type=float, default=0.9)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    import jax
    import numpyro
    from numpyro.infer import MCMC, NUTS

    numpyro.enable_x64()
    with np.load(options.data) as file:
        arguments = [file[key] for key in file.files]
    kernel = NUTS(_models()[options.name], target_accept_prob=options.acceptance)
    chains = {"num_chains": options.chains, "chain_method": "sequential", "progress_bar": False}
    sampler = MCMC(kernel, num_warmup=options.warmup, num_samples=options.draws, **chains)
    sampler.run(jax.random.key(options.seed), *arguments)
    draws: dict[str, Any] = {
        site: np.asarray(value) for site, value in sampler.get_samples(group_by_chain=True).items()
    }
    divergences = int(sampler.get_extra_fields()["diverging"].sum())
    np.savez(options.output, divergences=divergences, version=numpyro.__version__, **draws)


if __name__ == "__main__":
    main()
