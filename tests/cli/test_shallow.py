"""`pyrolvm fit` for mixtures and models with normal latents, beside maxima that are known."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import scipy.stats

import pyrolvm as lvm


def test_bits(succeeds: Callable[..., Any]) -> None:
    """One component: N sum_d [p log p + (1 - p) log(1 - p)] of the columns' shares p."""
    outcome = succeeds("fit", "bernoulli_mixture", "digits", "--num-components", 1)
    p = (lvm.datasets.digits().x > 8).mean(0)
    p = p[(p > 0) & (p < 1)]
    truth = 1797 * (p * np.log(p) + (1 - p) * np.log(1 - p)).sum()
    assert outcome.number("log p(x)") == pytest.approx(truth, abs=0.1)
    assert outcome.row("fit").startswith("EM: ")
    assert outcome.err.startswith("pyrolvm: note: grey values 0 to 16 were binarized at 8")


def test_counts(succeeds: Callable[..., Any]) -> None:
    outcome = succeeds("fit", "poisson_mixture", "digits", "--num-components", 1)
    x = lvm.datasets.digits().x
    x = x[:, x.any(0)]
    truth = scipy.stats.poisson(x.mean(0)).logpmf(x).sum()
    assert outcome.number("log p(x)") == pytest.approx(truth, rel=1e-6)


@pytest.mark.parametrize(
    ("arguments", "maximum"),
    [
        (("mixture_of_factor_analyzers", "wine", "--standardize", "--num-components", 1), -2894.2703),
        (("factor_analysis", "wine", "--standardize", "--num-latents", 2), -2747.1911),
        (("probabilistic_pca", "iris"), -470.6695),
        (("probabilistic_pca", "iris", "--num-latents", 2), -404.9628),
    ],
)
def test_known_maxima(arguments: tuple[Any, ...], maximum: float, succeeds: Callable[..., Any]) -> None:
    outcome = succeeds("fit", *arguments)
    assert outcome.number("log p(x)") == pytest.approx(maximum, abs=0.01)
    assert "exact" in outcome.row("verdict")


@pytest.mark.parametrize("model", ["probabilistic_pca", "factor_analysis", "latent_gaussian"])
def test_by_svi_with_a_guide(model: str, succeeds: Callable[..., Any]) -> None:
    options = ("--num-steps", 40, "--learning-rate", 0.01, "--evidence-particles", 300)
    outcome = succeeds("fit", model, "iris", *options)
    assert outcome.row("model") == f"{model} on iris (150 x 4), num_latents 1"
    assert outcome.row("fit").startswith("guide amortized, objective elbo: 40 steps")
    assert outcome.number("ELBO") < outcome.number("log p(x)") < -380.0  # a full Gaussian's maximum is -379.9


def test_factors_of_counts(succeeds: Callable[..., Any]) -> None:
    """After a few steps one factor explains more than independent counts can at best."""
    options = ("--num-steps", 100, "--learning-rate", 0.03, "--evidence-particles", 30)
    outcome = succeeds("fit", "poisson_factor_analysis", "digits", *options)
    x = lvm.datasets.digits().x
    x = x[:, x.any(0)]
    assert outcome.number("log p(x)") > scipy.stats.poisson(x.mean(0)).logpmf(x).sum() + 1000


def test_saved_and_read_again(succeeds: Callable[..., Any]) -> None:
    fitted = succeeds("fit", "bernoulli_mixture", "digits", "--num-components", 3, "--output", "bits.safetensors")
    again = succeeds("evidence", "bernoulli_mixture", "digits", "--fit", "bits.safetensors")
    assert again.number("log p(x)") == pytest.approx(fitted.number("log p(x)"), rel=1e-6)
    model = lvm.models.BernoulliMixture(3, 64)
    lvm.load("bits.safetensors", model)
    total = model.log_density(lvm.datasets.digits().x > 8).sum().item()
    assert total == pytest.approx(fitted.number("log p(x)"), rel=1e-6)


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        (("bernoulli_mixture", "iris"), "bernoulli_mixture needs zeros and ones; 'iris' has values from .*--binarize"),
        (("poisson_mixture", "iris"), "DATA must hold counts, .*Use gaussian_mixture"),
        (("poisson_factor_analysis", "iris"), "DATA must hold counts, .*Use latent_gaussian or factor_analysis"),
        (("factor_analysis", "iris", "--num-latents", 4), "--num-latents must be below num_features, 4; got 4"),
        (("poisson_mixture", "digits", "--num-latents", 2), "--num-latents does not apply to poisson_mixture"),
        (("latent_gaussian", "iris", "--method", "em"), "--method em needs a model with both steps in closed form"),
    ],
)
def test_refused(arguments: tuple[Any, ...], match: str, refused: Callable[..., None]) -> None:
    refused("fit", *arguments, match=match)
