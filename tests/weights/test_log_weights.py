"""What log_weights refuses, and what it finds out about programs."""

import pyro
import pyro.distributions as dist
import pytest
import torch

import pyrolvm as lvm
from pyrolvm.programs import minibatch


def model(x):
    with lvm.data_plate(x):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x)


def guide(x):
    with lvm.data_plate(x):
        pyro.sample("z", dist.Normal(x / 2, 1.0))


X = torch.tensor([0.5, -1.0, 2.0], dtype=torch.float64)


@pytest.mark.parametrize(("value", "error"), [(0, ValueError), (-3, ValueError), (2.0, TypeError), (True, TypeError)])
@pytest.mark.parametrize("name", ["num_particles", "num_global_particles"])
def test_counts(name, value, error):
    with pytest.raises(error, match=f"'{name}' must be"):
        lvm.log_weights(model, guide, X, **{name: value})


def test_global_particles_need_globals_and_locals():
    with pytest.raises(ValueError, match="'num_global_particles' must be 1 where"):
        lvm.log_weights(model, guide, X, num_global_particles=3)


def test_guide_enumeration_is_refused():
    def discrete(x):
        with lvm.data_plate(x):
            z = pyro.sample("z", dist.Bernoulli(0.5))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def enumerated(x):
        with lvm.data_plate(x):
            pyro.sample("z", dist.Bernoulli(0.5), infer={"enumerate": "parallel"})

    with pytest.raises(ValueError, match="The guide marks 'z' for enumeration"):
        lvm.log_weights(discrete, enumerated, X)


def test_sites_that_change_from_run_to_run_are_refused():
    count = iter(range(100))

    def restless(x):
        with lvm.data_plate(x):
            pyro.sample(f"x{next(count)}", dist.Normal(0.0, 1.0), obs=x)

    with pytest.raises(ValueError, match="different sites from run to run"):
        lvm.log_weights(restless, None, X)


def test_a_changed_program_is_looked_at_again():
    sites = ["a"]

    def growing(x):
        with lvm.data_plate(x):
            for name in sites:
                pyro.sample(name, dist.Normal(0.0, 1.0), obs=x)

    one = lvm.log_weights(growing, None, X).local
    sites.append("b")
    torch.testing.assert_close(lvm.log_weights(growing, None, X).local, 2 * one)


def test_a_program_that_is_wrong_in_silence_for_two_particles_is_looped():
    def softmaxed(x):
        a = pyro.sample("a", dist.Normal(0.0, 1.0).expand([3]).to_event(1))
        with lvm.data_plate(x):
            pyro.sample("x", dist.Normal(torch.softmax(a, 0)[0], 1.0), obs=x)

    def prior(x):
        pyro.sample("a", dist.Normal(0.0, 1.0).expand([3]).to_event(1))

    weights = lvm.log_weights(softmaxed, prior, X, num_particles=6, seed=0)
    loc = torch.softmax(weights.latents["a"], -1)[:, :1]
    torch.testing.assert_close(weights.local, dist.Normal(loc, 1.0).log_prob(X))


def test_one_minibatch_for_all_particles_of_a_program_that_draws_its_rows():
    data = torch.arange(10.0)

    def own_rows():
        with pyro.plate("data", 10, subsample_size=4) as rows:
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=data[rows])
            seen.append(rows)

    def own_rows_guide():
        with pyro.plate("data", 10, subsample_size=4) as rows:
            pyro.sample("z", dist.Normal(data[rows] / 2, 1.0))

    for vectorize in (True, False):
        seen = []
        objective = lvm.objectives.IWELBO(5, vectorize_particles=vectorize)
        objective.bound(own_rows, own_rows_guide, seed=0)  # finds the structure
        del seen[:]
        assert objective.bound(own_rows, own_rows_guide, seed=1).shape == (4,)
        assert all(torch.equal(rows, seen[0]) for rows in seen)


def test_a_global_site_that_sees_all_locals_makes_weights_joint():
    def tied(x):
        with lvm.data_plate(x):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)
        pyro.sample("total", dist.Normal(z.sum(-1), 1.0), obs=torch.tensor(0.3))

    weights = lvm.log_weights(tied, guide, X, num_particles=4, seed=0)
    assert weights.local is None
    z = weights.latents["z"]
    expected = (dist.Normal(0.0, 1.0).log_prob(z) + dist.Normal(z, 1.0).log_prob(X)).sum(-1)
    expected = (
        expected + dist.Normal(z.sum(-1), 1.0).log_prob(torch.tensor(0.3)) - dist.Normal(X / 2, 1.0).log_prob(z).sum(-1)
    )
    torch.testing.assert_close(weights.global_, expected)
    with minibatch(6, torch.arange(3)), pytest.raises(ValueError, match="Plate 'data' is subsampled, but site 'total'"):
        lvm.log_weights(tied, guide, X)


def test_too_little_plate_nesting_is_refused():
    with pytest.raises(ValueError, match="'max_plate_nesting' must be at least 1"):
        lvm.objectives.ELBO(2, max_plate_nesting=0).bound(model, guide, X)
    assert lvm.objectives.ELBO(2, max_plate_nesting=3).bound(model, guide, X).shape == (3,)


def test_one_row_keeps_its_dimension():
    weights = lvm.log_weights(model, guide, X[:1], num_particles=4)
    assert weights.local.shape == (4, 1)
    assert weights.global_ is None
    assert weights.latents["z"].shape == (4, 1)
