import numpy as np
import pytest
import scipy.stats
import torch

from pyrolvm.likelihoods import Bernoulli, Gaussian, Likelihood


@pytest.mark.parametrize("likelihood", [Bernoulli, Gaussian, lambda: Gaussian(2.0, learn_scale=True)])
def test_shapes_and_mean(likelihood):
    likelihood = likelihood()
    assert isinstance(likelihood, Likelihood)
    parameters = torch.randn(4, 3, likelihood.num_outputs(5))
    distribution = likelihood.distribution(parameters)
    assert distribution.batch_shape == (4, 3)
    assert distribution.event_shape == (5,)
    torch.testing.assert_close(likelihood.mean(parameters), distribution.mean)


def test_bernoulli_is_scipys():
    logits, x = torch.randn(6, 4), (torch.rand(6, 4) > 0.5).double()
    expected = scipy.stats.bernoulli(torch.sigmoid(logits).numpy()).logpmf(x.numpy()).sum(-1)
    np.testing.assert_allclose(Bernoulli().distribution(logits).log_prob(x).numpy(), expected)


def test_gaussian_is_scipys_with_a_scale_for_each_feature():
    scale, loc, x = torch.tensor([0.5, 1.0, 3.0]), torch.randn(6, 3), torch.randn(6, 3)
    expected = scipy.stats.norm(loc.numpy(), scale.numpy()).logpdf(x.numpy()).sum(-1)
    for learn_scale in (False, True):
        likelihood = Gaussian(scale, learn_scale=learn_scale)
        np.testing.assert_allclose(likelihood.distribution(loc).log_prob(x).detach().numpy(), expected)
        assert [p.shape for p in likelihood.parameters()] == ([(3,)] if learn_scale else [])


def test_a_learned_scale_finds_the_standard_deviation():
    likelihood, x = Gaussian(1.0, learn_scale=True), 0.3 * torch.randn(500, 2)
    optimizer = torch.optim.LBFGS(likelihood.parameters(), line_search_fn="strong_wolfe")

    def loss():
        optimizer.zero_grad()
        value = -likelihood.distribution(torch.zeros(2)).log_prob(x).mean()
        value.backward()
        return value

    optimizer.step(loss)
    assert likelihood.scale.item() == pytest.approx(x.square().mean().sqrt().item(), rel=1e-4)


def test_what_can_be_produced_is_accepted():
    Bernoulli().check(torch.tensor([[0.0, 1.0], [1.0, 1.0]]))
    Gaussian().check(torch.randn(3, 2))


def test_grey_values_are_refused_with_the_row():
    x = torch.ones(3, 2)
    x[1, 1] = 0.25
    found = (
        r"got values from 0.25 to 1, first in row 1, column 1 \(0.25\)\. Binarize it, e\.g\. \(x > 0.625\)\.float\(\)"
    )
    with pytest.raises(ValueError, match=found):
        Bernoulli().check(x)
    with pytest.raises(
        ValueError, match=r"values from 0 to 16, .* \(x > 8\)\.float\(\), or use likelihoods\.Gaussian\(\)"
    ):
        Bernoulli().check(torch.arange(17.0).reshape(-1, 1))
    with pytest.raises(ValueError, match="values from -1 to -1"):
        Bernoulli().check(-torch.ones(2, 2))


def test_values_that_are_not_finite_are_refused_with_the_row():
    with pytest.raises(
        ValueError, match=r"'x' must hold finite numbers; row 2, column 0 holds nan\. .* likelihoods\.Masked"
    ):
        Gaussian().check(torch.tensor([[0.0], [1.0], [float("nan")]]))


@pytest.mark.parametrize("scale", [0.0, -1.0, float("nan"), float("inf"), torch.ones(2, 2), torch.tensor([1.0, -1.0])])
def test_scales_that_are_none_are_refused(scale):
    with pytest.raises(ValueError, match="'scale' must be a positive number, or a vector"):
        Gaussian(scale)


def test_a_scale_of_other_length_is_refused():
    with pytest.raises(ValueError, match=r"must be a number or have shape \(4,\), .* got \(3,\)"):
        Gaussian(torch.ones(3)).num_outputs(4)
