"""What enumerated sites are summed into: the likelihood where one of them is observed, else the prior."""

import pyro
import pyro.distributions as dist
import pytest
import torch

import pyrolvm as lvm

X = torch.tensor([0.5, -1.0, 2.0], dtype=torch.float64)
WEIGHTS = torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64)
LOCS = torch.tensor([-2.0, 0.0, 1.5], dtype=torch.float64)
COIN = torch.tensor([0.4, 0.6], dtype=torch.float64)
ENUMERATE = {"enumerate": "parallel"}


def normal(loc, value, scale=1.0):
    return dist.Normal(loc, scale).log_prob(value)


def mixture_prior(x, num_values=3):
    """z is a mixture of normals, and x | z has noise from a mixture of its own."""
    with lvm.data_plate(x):
        c = pyro.sample("c", dist.Categorical(WEIGHTS[:num_values]), infer=ENUMERATE)
        z = pyro.sample("z", dist.Normal(LOCS[c], 1.0))
        b = pyro.sample("b", dist.Categorical(COIN), infer=ENUMERATE)
        pyro.sample("x", dist.Normal(z + b, 0.5), obs=x)


def guide(x, num_values=3):
    with lvm.data_plate(x):
        pyro.sample("z", dist.Normal(x / 2, 1.0))


def log_prior(z, num_values=3):
    weights = WEIGHTS[:num_values] / WEIGHTS[:num_values].sum()
    return torch.logsumexp(weights.log() + normal(LOCS[:num_values], z.unsqueeze(-1)), -1)


def log_likelihood(z, x):
    return torch.logsumexp(COIN.log() + normal(z.unsqueeze(-1) + torch.arange(2.0), x.unsqueeze(-1), 0.5), -1)


@pytest.mark.parametrize("num_values", [3, 1])
def test_a_mixture_prior_is_a_prior_and_mixed_noise_a_likelihood(num_values):
    weights = lvm.log_weights(mixture_prior, guide, X, num_values, num_particles=4)
    z = weights.latents["z"]
    torch.testing.assert_close(weights.log_prior.local, log_prior(z, num_values))
    torch.testing.assert_close(weights.log_likelihood.local, log_likelihood(z, X))
    torch.testing.assert_close(weights.log_guide.local, normal(X / 2, z))


def test_one_datum():
    weights = lvm.log_weights(mixture_prior, guide, X[:1], num_particles=4)
    torch.testing.assert_close(weights.log_prior.local, log_prior(weights.latents["z"]))


def test_what_depends_on_both_is_summed_out_together():
    """The noise's component depends on the prior's: all of it is one likelihood."""

    def model(x):
        with lvm.data_plate(x):
            c = pyro.sample("c", dist.Categorical(WEIGHTS), infer=ENUMERATE)
            z = pyro.sample("z", dist.Normal(LOCS[c], 1.0))
            b = pyro.sample("b", dist.Bernoulli((c == 0) * 0.5 + 0.25), infer=ENUMERATE)
            pyro.sample("x", dist.Normal(z + b, 0.5), obs=x)

    weights = lvm.log_weights(model, guide, X, num_particles=4)
    z = weights.latents["z"].unsqueeze(-1)
    p = (torch.arange(3) == 0) * 0.5 + 0.25
    noise = (1 - p) * normal(z, X.unsqueeze(-1), 0.5).exp() + p * normal(z + 1, X.unsqueeze(-1), 0.5).exp()
    torch.testing.assert_close(
        weights.log_likelihood.local, torch.logsumexp(WEIGHTS.log() + normal(LOCS, z) + noise.log(), -1)
    )
    assert weights.log_prior.local is None


def test_a_prior_with_enumerated_globals():
    """Each group by itself: one outside of the data plate without data, one inside with data."""

    def model(x):
        a = pyro.sample("a", dist.Bernoulli(torch.tensor(0.3)), infer=ENUMERATE)
        m = pyro.sample("m", dist.Normal(4 * a, 1.0))
        with lvm.data_plate(x):
            b = pyro.sample("b", dist.Bernoulli(torch.tensor(0.6)), infer=ENUMERATE)
            pyro.sample("x", dist.Normal(m + b, 0.5), obs=x)

    def guide(x):
        pyro.sample("m", dist.Normal(torch.tensor(0.5), 1.0))

    weights = lvm.log_weights(model, guide, X, num_particles=5)
    m = weights.latents["m"]
    expected = torch.logsumexp(torch.tensor([0.7, 0.3]).log() + normal(torch.tensor([0.0, 4.0]), m.unsqueeze(-1)), -1)
    torch.testing.assert_close(weights.log_prior.global_, expected)
    torch.testing.assert_close(weights.log_likelihood.global_, log_likelihood(m.unsqueeze(-1), X).sum(-1))


def test_scales_are_compared_where_sites_are_summed_out_together():
    def model(x, together):
        with lvm.data_plate(x):
            with pyro.poutine.scale(scale=2.0):
                c = pyro.sample("c", dist.Categorical(WEIGHTS), infer=ENUMERATE)
                z = pyro.sample("z", dist.Normal(LOCS[c], 1.0))
            b = pyro.sample("b", dist.Categorical(COIN), infer=ENUMERATE)
            pyro.sample("x", dist.Normal(z + b + (c if together else 0), 0.5), obs=x)

    def guide(x, together):
        with lvm.data_plate(x):
            pyro.sample("z", dist.Normal(x / 2, 1.0))

    weights = lvm.log_weights(model, guide, X, False, num_particles=2)
    torch.testing.assert_close(weights.log_prior.local, 2 * log_prior(weights.latents["z"]))
    with pytest.raises(ValueError, match="summed out together and must have one poutine.scale"):
        lvm.log_weights(model, guide, X, True, num_particles=2)
