"""Collapse of the library's own deep models: priors that are learned, several layers, bits, missing data, classes."""

import math
import warnings

import numpy as np
import pytest
import torch
from guides.test_bottom_up import DOWN, chain, exact_guide, joint, log_evidence, simulated

import pyrolvm as lvm
from pyrolvm.nn import MLP


def collapse(model, guide, *args, **options):
    """A report without its warning."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return lvm.diagnostics.collapse(model, guide, *args, **{"seed": 0, **options})


def bits(num_data=12, num_features=5):
    return (torch.rand(num_data, num_features, generator=torch.Generator().manual_seed(0)) < 0.4).double()


@pytest.mark.parametrize("family", ["diagonal", "full_rank", "flow"])
def test_with_the_data_as_pseudo_inputs_the_prior_is_the_aggregate_posterior(family):
    """The VampPrior of all the data is q(z): KL(q(z) || p(z)) = 0 at every draw, and the rate is all information."""
    x = bits()
    prior = lvm.priors.VampPrior(2, x, bounds=None)
    model = lvm.models.VAE(2, MLP(2, [4], 5), prior=prior)
    guide = lvm.guides.Amortized(model, MLP(5, [4], 4), family)
    prior.tie(guide)
    guide(x)
    with torch.no_grad():
        guide.heads["head0"].weight.mul_(4.0)  # so that data differ
    for batch_size in (None, 5):
        report = collapse(model, guide, x, num_draws=60, batch_size=batch_size)
        assert report.marginal_kl == pytest.approx(0.0, abs=1e-7)
        assert report.marginal_kl_error == pytest.approx(0.0, abs=1e-7)
        assert report.mutual_information == pytest.approx(report.rate, abs=1e-7)
        assert report.mutual_information > 0.1
        assert report.table["rate"].isna().all()
        assert report.table["predicted_rate"].isna().all()


@pytest.mark.parametrize("prior", [lvm.priors.NormalMixture, lvm.priors.Flow], ids=["mixture", "flow"])
def test_rates_under_a_learned_prior_are_those_of_the_log_weights(prior):
    x = bits()
    made = prior(3, 2) if prior is lvm.priors.NormalMixture else prior(2)
    model = lvm.models.VAE(2, torch.nn.Linear(2, 5), prior=made)
    guide = lvm.guides.Amortized(model, MLP(5, [4], 4))
    guide(x)
    report = collapse(model, guide, x, num_draws=60, num_particles=200)
    weights = lvm.log_weights(model, guide, x, num_particles=400, seed=1)
    draws = (weights.log_guide.local - weights.log_prior.local).mean(1)
    error = math.hypot(report.rate_error, draws.std().item() / 400**0.5)
    assert abs(report.rate - draws.mean().item()) < 4 * error
    assert error < 0.1
    assert report.table["predicted_rate"].isna().all()


def test_a_chain_of_layers_by_its_exact_posterior():
    """At the exact posterior the ELBO is log p(x), and the distortion follows from the moments of z1 given x."""
    x = simulated()
    report = collapse(chain, exact_guide(x), x, num_draws=90, num_particles=1000)
    evidence = log_evidence(x).mean().item()
    assert abs(report.elbo - evidence) < 4 * report.elbo_error + 1e-9
    mean, covariance = joint()
    slope = torch.linalg.solve(covariance[:4, :4], covariance[:4, 4:6]).mT
    spread = DOWN @ (covariance[4:6, 4:6] - slope @ covariance[:4, 4:6]) @ DOWN.mT
    left = x - (mean[4:6] + (x - mean[:4]) @ slope.mT) @ DOWN.mT
    square = left.square().sum(1).mean().item() + spread.trace().item()
    distortion = 2 * math.log(2 * math.pi * 0.36) + 0.5 * square / 0.36
    assert abs(report.distortion - distortion) < 4 * report.distortion_error
    assert abs(report.rate - (-distortion - evidence)) < 4 * report.rate_error
    assert report.rate_error < 0.02
    sites = report.by_site.set_index("site")
    assert list(sites.index) == ["z1", "z2", "z3"]
    assert sites["rate"].sum() == pytest.approx(report.rate, abs=1e-9)
    np.testing.assert_allclose(report.table.set_index("site").loc["z3", "rate"], sites.loc["z3", "rate"], atol=1e-9)


def test_bits_by_enumeration():
    """Three Bernoulli latents and a diagonal guide: every sum over their eight values."""
    x = bits()
    prior = lvm.priors.Bernoulli(3)
    model = lvm.models.VAE(3, MLP(3, [4], 5), prior=prior)
    guide = lvm.guides.Amortized(model, torch.nn.Identity())
    guide(x)
    with torch.no_grad():
        guide.heads["head0"].weight.mul_(5.0)
        on, p = torch.sigmoid(guide.heads["head0"](x)), torch.sigmoid(prior.logits)
    report = collapse(model, guide, x, num_draws=2400, num_particles=8)
    rate = (on * (on / p).log() + (1 - on) * ((1 - on) / (1 - p)).log()).mean(0)
    np.testing.assert_allclose(report.table["rate"], rate, atol=1e-9)
    values = torch.cartesian_prod(*[torch.tensor([0.0, 1.0])] * 3)
    q = torch.where(values[:, None] == 1, on, 1 - on).prod(-1)  # (8, N)
    information = (q * (q / q.mean(1, keepdim=True)).log()).sum(0).mean().item()
    assert abs(report.mutual_information - information) < 4 * report.mutual_information_error
    assert report.mutual_information_error < 0.1 * information


def test_missing_entries():
    x = bits()
    x[0, 1] = x[3, 4] = math.nan
    model = lvm.models.VAE(2, MLP(2, [4], 5), lvm.likelihoods.Masked(lvm.likelihoods.Bernoulli()))
    guide = lvm.guides.Amortized(model, torch.nn.Sequential(lvm.nn.FillMissing(), MLP(10, [4], 4)))
    guide(x)
    report = collapse(model, guide, x, num_draws=30)
    weights = lvm.log_weights(model, guide, x, num_particles=500, seed=1)
    likelihood = weights.log_likelihood.local.mean(1)
    error = math.hypot(report.distortion_error, likelihood.std().item() / 500**0.5)
    assert abs(report.distortion + likelihood.mean().item()) < 4 * error


def test_classes_that_are_summed_out():
    x, labels = bits(), torch.tensor([0, 1, -1] * 4)
    model = lvm.models.SemiSupervisedVAE(2, 2, MLP(4, [4], 5))
    guide = lvm.guides.Amortized(model, MLP(5, [4], 4))
    guide(x, labels)
    report = collapse(model, guide, x, labels, num_draws=30, num_particles=400)
    elbo = lvm.objectives.ELBO(400).bound(model, guide, x, labels, seed=1)
    assert abs(report.elbo - elbo.mean().item()) < 6 * report.elbo_error
    loc, raw = guide.heads["head0"](guide.encoder(x)).detach().split(2, -1)
    scale = torch.nn.functional.softplus(raw) + 1e-6
    rate = (0.5 * (loc.square() + scale.square() - 1) - scale.log()).mean(0)
    np.testing.assert_allclose(report.table["rate"], rate, atol=1e-9)
