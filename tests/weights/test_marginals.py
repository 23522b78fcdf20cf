"""Posteriors of enumerated sites, against Bayes' rule, smoothing and a mixture's responsibilities."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from laws.cases import (
    CASES,
    CENTERS,
    EMISSION,
    LENGTHS,
    PLANE,
    POINTS,
    SEQUENCES,
    TRANSITION,
    WEIGHTS,
    markov_model,
    mixture_model,
)
from pyro.infer import TraceEnum_ELBO
from sklearn.mixture import GaussianMixture

import pyrolvm as lvm


def test_mixture_against_bayes_rule():
    model, _ = lvm.bind(mixture_model, None, PLANE)
    found = lvm.marginals(model, None, PLANE)["z"]
    joint = WEIGHTS.log() + dist.Normal(CENTERS, 1.0).log_prob(PLANE[:, None]).sum(-1)
    torch.testing.assert_close(found.probs, torch.softmax(joint, -1))


def test_mixture_against_scikit_learn():
    x = torch.randn(50, 2, generator=torch.Generator().manual_seed(0))
    theirs = GaussianMixture(3, random_state=0).fit(x.numpy())
    model = lvm.models.GaussianMixture(3, 2).double()
    model.initialize(x, seed=0)
    found = lvm.marginals(model, None, x)
    (probs,) = (distribution.probs for distribution in found.values())
    torch.testing.assert_close(probs, model.responsibilities(x))
    assert probs.shape == theirs.predict_proba(x.numpy()).shape


def smoothed():
    """p(z_t | x) of each sequence by the forward-backward recursions."""
    rows = []
    for sequence, length in zip(SEQUENCES, LENGTHS, strict=True):
        emission = dist.Normal(EMISSION, 1.0).log_prob(sequence[: int(length), None])
        forward, backward = [TRANSITION[0].log() + emission[0]], [torch.zeros(3)]
        for t in range(1, int(length)):
            forward.append(torch.logsumexp(forward[-1][:, None] + TRANSITION.log(), 0) + emission[t])
        for t in range(int(length) - 1, 0, -1):
            backward.insert(0, torch.logsumexp(TRANSITION.log() + emission[t] + backward[0], 1))
        rows.append(torch.softmax(torch.stack(forward) + torch.stack(backward), -1))
    return rows


def test_hidden_markov_model_against_forward_backward():
    model, _ = lvm.bind(markov_model, None, SEQUENCES, LENGTHS)
    found = lvm.marginals(model, None, SEQUENCES, LENGTHS)
    for row, truth in enumerate(smoothed()):
        for t in range(len(truth)):
            torch.testing.assert_close(found[f"z{t}"].probs[row], truth[t])


def test_plates_keep_their_dimensions():
    """z in a plate inside the data plate: the batch shape is (N, 2)."""
    x = PLANE

    def model(x):
        with lvm.data_plate(x, dim=-2), pyro.plate("features", 2, dim=-1):
            z = pyro.sample("z", dist.Bernoulli(torch.tensor([0.2, 0.6])), infer={"enumerate": "parallel"})
            pyro.sample("x", dist.Normal(2 * z - 1, 1.0), obs=x)

    found = lvm.marginals(model, None, x)["z"]
    log_odds = torch.logit(torch.tensor([0.2, 0.6])) + 2 * x
    assert isinstance(found, dist.Bernoulli)
    torch.testing.assert_close(found.probs, torch.sigmoid(log_odds))
    theirs = TraceEnum_ELBO(max_plate_nesting=2).compute_marginals(model, lvm.guides.Empty(), x)["z"]
    torch.testing.assert_close(found.probs, theirs.probs)


@pytest.mark.parametrize("broadcasts", [True, False])
def test_with_draws_of_locals(broadcasts):
    """z ~ Bernoulli(.3), y ~ N(2z - 1, 1), x ~ N(y, 1): given x alone the log odds of z are 2 x / 2 + log(.3/.7)."""

    def model(x):
        with lvm.data_plate(x):
            z = pyro.sample("z", dist.Bernoulli(torch.tensor(0.3)), infer={"enumerate": "parallel"})
            y = pyro.sample("y", dist.Normal(2 * z - 1, 1.0))
            if not broadcasts:
                assert y.shape == x.shape
            pyro.sample("x", dist.Normal(y, 1.0), obs=x)

    def guide(x):
        with lvm.data_plate(x):
            pyro.sample("y", dist.Normal(x / 2, 1.2))

    num_particles = 20_000 if broadcasts else 400
    found = lvm.marginals(model, guide, POINTS, num_particles=num_particles, seed=0)["z"]
    truth = torch.sigmoid(POINTS + math.log(3 / 7))
    assert ((found.probs - truth).abs() < 4 * 0.5 / math.sqrt(num_particles)).all()


def test_with_draws_of_globals():
    """One joint weight for each draw of the centers; truth by a grid over the one uncertain center."""

    def model(x):
        loc = pyro.sample("loc", dist.Normal(1.0, 0.5))
        with lvm.data_plate(x):
            z = pyro.sample("z", dist.Categorical(torch.tensor([0.4, 0.6])), infer={"enumerate": "parallel"})
            pyro.sample("x", dist.Normal(torch.where(z == 0, -1.0, loc), 1.0), obs=x)

    def guide(x):
        pyro.sample("loc", dist.Normal(1.0, 0.4))

    found = lvm.marginals(model, guide, POINTS, num_particles=20_000, seed=0)["z"]
    grid = torch.linspace(-3, 5, 4001)
    low = math.log(0.4) + dist.Normal(-1.0, 1.0).log_prob(POINTS).expand(4001, -1)
    high = math.log(0.6) + dist.Normal(grid[:, None], 1.0).log_prob(POINTS)
    evidence = torch.logaddexp(low, high)
    weight = torch.softmax(dist.Normal(1.0, 0.5).log_prob(grid) + evidence.sum(-1), 0)
    truth = (weight[:, None] * (high - evidence).exp()).sum(0)
    torch.testing.assert_close(found.probs[:, 1], truth, atol=0.01, rtol=0)


def test_one_hot_and_counts():
    def model():
        pyro.sample("hot", dist.OneHotCategorical(torch.tensor([0.1, 0.9])), infer={"enumerate": "parallel"})
        count = pyro.sample("count", dist.Binomial(2, torch.tensor(0.5)), infer={"enumerate": "parallel"})
        pyro.sample("x", dist.Normal(count, 1.0), obs=torch.tensor(1.0))

    found = lvm.marginals(model, None)
    torch.testing.assert_close(found["hot"].probs, torch.tensor([0.1, 0.9]))
    assert isinstance(found["hot"], dist.OneHotCategorical)
    weights = torch.tensor([0.25, 0.5, 0.25]).log() - 0.5 * torch.tensor([1.0, 0.0, 1.0])
    torch.testing.assert_close(found["count"].probs, torch.softmax(weights, 0))


def test_a_poutine_scale_does_not_change_the_posterior():
    def model(x):
        with pyro.poutine.scale(scale=3.0), lvm.data_plate(x):
            z = pyro.sample("z", dist.Bernoulli(torch.tensor(0.3)), infer={"enumerate": "parallel"})
            pyro.sample("x", dist.Normal(2 * z - 1, 1.0), obs=x)

    found = lvm.marginals(model, None, POINTS)["z"]
    torch.testing.assert_close(found.probs, torch.sigmoid(2 * POINTS + math.log(3 / 7)))


def test_nothing_to_report_on():
    model, guide, args = CASES["local, functions"].make()
    model, guide = lvm.bind(model, guide, *args)
    with pytest.raises(ValueError, match="The model enumerates no site"):
        lvm.marginals(model, guide, *args)
    with pytest.raises(ValueError, match="'num_particles' must be at least 1"):
        lvm.marginals(model, guide, *args, num_particles=0)


def test_a_datum_that_cannot_be():
    def model(x):
        with lvm.data_plate(x):
            z = pyro.sample("z", dist.Bernoulli(torch.tensor(0.3)), infer={"enumerate": "parallel"})
            pyro.sample("x", dist.Delta(0.0 * z), obs=x)

    with pytest.raises(ValueError, match="posterior of site 'z' does not exist: all weights are zero for some datum"):
        lvm.marginals(model, None, torch.tensor([0.0, 1.0]))
