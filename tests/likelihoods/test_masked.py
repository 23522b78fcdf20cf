"""Missing entries: the density is that with the columns left out."""

import numpy as np
import pyro.distributions as dist
import pytest
import torch
from likelihoods.kinds import KINDS, log_density
from pyro.nn import PyroModule

import pyrolvm as lvm
from pyrolvm.likelihoods import Autoregressive, Bernoulli, Gaussian, Likelihood, Masked, Poisson
from pyrolvm.programs import simulate

NAN = float("nan")
EACH = pytest.mark.parametrize("kind", list(KINDS.values()), ids=list(KINDS))


def with_holes(x):
    missing = torch.rand(x.shape) < 0.4
    missing[0], missing[1] = True, False
    return x.masked_fill(missing, NAN), missing


@EACH
def test_density_is_scipys_over_the_observed_entries(kind):
    parameters, x, truth = kind.given(40)
    likelihood, (holes, missing) = Masked(kind.make()), with_holes(x)
    assert isinstance(likelihood, Likelihood)
    likelihood.check(holes)
    found = likelihood.distribution(parameters).log_prob(holes).detach().numpy()
    expected = np.where(missing.numpy(), 0.0, log_density(truth, x.numpy())).sum(-1)
    np.testing.assert_allclose(found, expected, rtol=1e-10)
    assert found[0] == 0.0


@EACH
def test_gradients_are_those_of_the_observed_entries(kind):
    parameters, x, _ = kind.given(40)
    likelihood, (holes, missing) = kind.make(), with_holes(x)
    found, expected = parameters.clone().requires_grad_(), parameters.clone().requires_grad_()
    own = list(likelihood.parameters())
    density = Masked(likelihood).distribution(found).log_prob(holes).sum()
    of_found, *of_own = torch.autograd.grad(density, [found, *own])
    apart = likelihood.features(expected).log_prob(x).where(~missing, 0.0).sum()
    of_expected, *of_same = torch.autograd.grad(apart, [expected, *own])
    torch.testing.assert_close([of_found, *of_own], [of_expected, *of_same])
    assert of_found[1].abs().sum() > 0


@EACH
def test_draws_and_means_have_every_entry(kind):
    parameters, _, _ = kind.given(5, 4)
    masked, plain = (make.distribution(parameters) for make in (Masked(kind.make()), kind.make()))
    assert (masked.batch_shape, masked.event_shape) == (plain.batch_shape, plain.event_shape)
    draws = []
    for distribution in (masked, plain):
        torch.manual_seed(1)
        draws.append(distribution.sample((3,)))
    assert torch.equal(*draws)
    torch.testing.assert_close(masked.mean, plain.mean)
    torch.testing.assert_close(masked.variance, plain.variance)
    expanded = masked.expand((6, 5, 4))
    torch.testing.assert_close(expanded.log_prob(draws[0][0]), plain.log_prob(draws[0][0]).expand(6, 5, 4))


class Durations(PyroModule):
    """A user's likelihood, whose support does not hold 0."""

    def num_outputs(self, num_features):
        return num_features

    def features(self, parameters):
        return dist.LogNormal(parameters, 1.0)

    def distribution(self, parameters):
        return self.features(parameters).to_event(1)

    def mean(self, parameters):
        return self.features(parameters).mean

    def check(self, x):
        if not (x > 0).all():
            raise ValueError("durations must be positive")


def test_a_likelihood_of_the_users_with_another_support():
    likelihood = Masked(Durations())
    x, parameters = torch.tensor([[2.0, NAN], [NAN, 3.0]]), torch.zeros(2, 2, requires_grad=True)
    likelihood.check(x)
    density = likelihood.distribution(parameters).log_prob(x)
    torch.testing.assert_close(density, dist.LogNormal(0.0, 1.0).log_prob(torch.tensor([2.0, 3.0])))
    density.sum().backward()
    torch.testing.assert_close(parameters.grad, torch.tensor([2.0, 3.0]).log().diag())
    with pytest.raises(ValueError, match="durations must be positive"):
        likelihood.check(torch.tensor([[-1.0, NAN]]))


def test_log_density_of_a_linear_model_is_the_marginal_of_the_observed_entries():
    decoder = torch.nn.Linear(2, 4)
    model = lvm.models.VAE(2, decoder, Masked(Gaussian(0.6)))
    x, _ = with_holes(torch.randn(8, 4))
    x[2:5, :2] = NAN
    covariance = (decoder.weight @ decoder.weight.mT + 0.36 * torch.eye(4)).detach()
    expected = []
    for row in x:
        seen = (~row.isnan()).nonzero().squeeze(-1)
        marginal = (
            dist.MultivariateNormal(decoder.bias.detach()[seen], covariance[seen][:, seen]) if len(seen) else None
        )
        expected.append(torch.zeros(()) if marginal is None else marginal.log_prob(row[seen]))
    found = lvm.evidence.exact(model, x)
    assert found.method == "quadrature"
    torch.testing.assert_close(found.log_evidence, torch.stack(expected), rtol=1e-6, atol=1e-6)


def test_models_take_missing_entries_and_no_infinite_ones():
    model = lvm.models.VAE(2, torch.nn.Linear(2, 3), Masked(Gaussian()))
    x = torch.tensor([[0.0, NAN, 1.0], [1.0, 2.0, NAN]])
    assert torch.equal(model.check_data(x).isnan(), x.isnan())
    guide = lvm.guides.Amortized(model, torch.nn.Sequential(lvm.nn.FillMissing(), torch.nn.Linear(6, 4)))
    bad = torch.where(x == 2.0, torch.inf, x)
    with pytest.raises(ValueError, match="'x' must be finite; row 1, column 1 holds inf"):
        model.check_data(bad)
    for data in (bad, torch.utils.data.DataLoader(torch.utils.data.TensorDataset(bad), batch_size=2)):
        with pytest.raises(ValueError, match="'data' must be finite; row 1, column 1 holds inf"):
            lvm.fit(model, guide, data, num_steps=2, progress=False)
    plain = lvm.models.VAE(2, torch.nn.Linear(2, 3), Gaussian())
    with pytest.raises(ValueError, match="'data' must be finite; row 0, column 1 holds nan"):
        lvm.fit(plain, guide, x, num_steps=2, progress=False)
    with pytest.raises(ValueError, match="'x' must be finite; row 0, column 1 holds nan"):
        plain.check_data(x)


def test_simulated_data_are_missing_where_the_data_are():
    model = lvm.models.VAE(2, torch.nn.Linear(2, 3), Masked(Gaussian()))
    x = torch.tensor([[0.0, NAN, 1.0], [1.0, 2.0, NAN]])
    simulated = simulate(model, (x,), {}).args[0]
    assert torch.equal(simulated.isnan(), x.isnan())
    assert not (simulated == x).any()


def test_a_fit_is_saved_and_loaded(tmp_path):
    def pair():
        likelihood = Masked(Gaussian(torch.ones(3), learn_scale=True))
        model = lvm.models.VAE(2, lvm.nn.ConvDecoder(2, [4], (1, 3)), likelihood)
        return model, lvm.guides.Amortized(model, torch.nn.Sequential(lvm.nn.FillMissing(), torch.nn.Linear(6, 4)))

    x, _ = with_holes(torch.randn(20, 3))
    fitted = lvm.fit(*pair(), x, num_steps=3, seed=0, progress=False, compile=False)
    fitted.save(tmp_path / "fit")
    loaded = lvm.load(tmp_path / "fit", *pair(), x)
    torch.testing.assert_close(loaded.model.state_dict(), fitted.model.state_dict(), rtol=0, atol=0)
    found, expected = (lvm.log_weights(r.model, r.guide, x, num_particles=2, seed=0).local for r in (loaded, fitted))
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


@pytest.mark.parametrize("make", [lvm.guides.Amortized, lvm.guides.BottomUp])
def test_an_encoder_that_passes_missing_entries_on_is_refused(make):
    model = lvm.models.VAE(2, torch.nn.Linear(2, 3), Masked(Gaussian()))
    x = torch.zeros(12, 3)
    fitted = lvm.fit(model, make(model, torch.nn.Linear(3, 4)), x, num_steps=2, progress=False)
    x[7, 1] = NAN
    match = "missing entries of the data, NaN, make a distribution's parameters NaN: .*FillMissing"
    for use in (
        lambda: lvm.fit(model, make(model, torch.nn.Linear(3, 4)), x, num_steps=12, batch_size=2, progress=False),
        lambda: lvm.evidence.importance(fitted.model, fitted.guide, x, num_particles=4),
        lambda: lvm.features(fitted.model, fitted.guide, x),
    ):
        with pytest.raises(ValueError, match=match):
            use()


def test_a_loss_that_is_not_finite_is_not_put_down_to_missing_entries():
    model = lvm.models.VAE(2, torch.nn.Linear(2, 3), Masked(Gaussian()))
    x = torch.tensor([[0.0, NAN, 1e200], [1.0, 2.0, NAN]])
    with pytest.raises(ValueError, match="the log-density of site 'x' of the model is not finite"):
        lvm.fit(model, lvm.guides.PerDatum(model, 2), x, num_steps=2, progress=False)


@pytest.mark.parametrize(
    ("act", "error", "match"),
    [
        (lambda: Masked(Gaussian), TypeError, r"must be an object of lvm\.likelihoods, e\.g\. Masked\(Bernoulli\(\)\)"),
        (
            lambda: Masked(Autoregressive(3, 2, [4])),
            TypeError,
            "must have independent features, .* got Autoregressive. Take another",
        ),
        (lambda: Masked(Masked(Gaussian())), TypeError, "must have independent features, .* got Masked"),
        (
            lambda: Masked(Bernoulli()).check(torch.tensor([[NAN, 1.0], [0.5, NAN]])),
            ValueError,
            r"must hold only 0 and 1 .* first in row 1, column 0 \(0\.5\)",
        ),
        (
            lambda: Masked(Poisson()).check(torch.tensor([[NAN, 1.0], [-1.0, NAN]])),
            ValueError,
            "counts, 0, 1, 2, .* row 1, column 0 holds -1",
        ),
        (
            lambda: Masked(Poisson()).check(torch.full((3, 2), NAN)),
            ValueError,
            r"must have an entry that is observed; got NaN alone, shape \(3, 2\)",
        ),
    ],
)
def test_refusals(act, error, match):
    with pytest.raises(error, match=match):
        act()
