"""Edges at which a wrong number could pass in silence: masks, weights of zero, options that do not apply."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from laws.cases import CASES, schools_guide, schools_model
from pyro.infer import SVI
from pyro.infer.autoguide import AutoLaplaceApproximation, AutoNormal

import pyrolvm as lvm
from pyrolvm.objectives import ELBO, IWELBO, RWS, STL, TVO, VIMCO, DReG, Renyi

X = torch.tensor([0.3, 0.0, 2.0])
MASK = torch.tensor([True, False, True])


@pytest.mark.filterwarnings("ignore:Pareto k-hat:UserWarning")
def test_missing_data_by_obs_mask():
    """An autoguide draws what is missing for every row; where it is not missing it integrates to one."""

    def model(x):
        with lvm.data_plate(x):
            z = pyro.sample("z", dist.Normal(0.1, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x, obs_mask=MASK)

    guide = AutoNormal(model, init_scale=0.8)
    truth = torch.where(MASK, dist.Normal(0.1, math.sqrt(2.0)).log_prob(X), 0.0)
    result = lvm.fit(model, guide, X, num_steps=600, learning_rate=0.03, seed=0, progress=False)
    found = lvm.evidence.importance(result.model, result.guide, X, num_particles=20_000, seed=0)
    assert ((found.log_evidence - truth).abs() < 4 * found.standard_error).all()
    bound = ELBO(2000).bound(result.model, result.guide, X, seed=1)
    assert (bound < truth + 0.05).all()
    assert bound.sum() > truth.sum() - 1.5


def test_a_latent_that_is_masked_in_one_program_only():
    def model(x):
        with lvm.data_plate(x), pyro.poutine.mask(mask=MASK):
            z = pyro.sample("z", dist.Normal(0.1, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x):
        with lvm.data_plate(x):
            pyro.sample("z", dist.Normal(x / 2, 1.0))

    assert [problem.code for problem in lvm.check(model, guide, X).problems] == ["mask-mismatch"]
    with pytest.raises(ValueError, match="Site 'z' must be masked in the guide as it is in the model"):
        ELBO().loss_and_grads(model, guide, X)

    def masked(x):
        with pyro.poutine.mask(mask=MASK):
            guide(x)

    assert ELBO().bound(model, masked, X)[1] == 0.0


def possible_model(x):
    with lvm.data_plate(x):
        z = pyro.sample("z", dist.Normal(pyro.param("m", torch.tensor(0.1)), 1.0))
        pyro.sample("x", dist.Uniform(z - 5, z + 5, validate_args=False), obs=x)


def possible_guide(x):
    with lvm.data_plate(x):
        pyro.sample("z", dist.Normal(pyro.param("q", torch.tensor(0.3)), 1.0))


@pytest.mark.parametrize(
    "make", [ELBO, STL, IWELBO, DReG, VIMCO, RWS, TVO, lambda k: Renyi(k, alpha=0.5), lambda k: Renyi(k, alpha=2.0)]
)
def test_a_datum_of_weight_zero_spoils_no_parameter(make):
    """One datum cannot be: the loss is infinite, and no parameter becomes NaN."""
    svi = SVI(possible_model, possible_guide, pyro.optim.Adam({"lr": 0.1}), make(4))
    loss = svi.step(torch.tensor([0.3, 40.0]))
    assert loss == math.inf
    assert all(torch.isfinite(p).all() for p in pyro.get_param_store().values())


@pytest.mark.parametrize("alpha", [0.5, 2.0])
def test_an_infinite_weight_is_never_a_finite_loss(alpha):
    def model(x):
        with lvm.data_plate(x):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)
            pyro.factor("f", torch.where(z > 0.5, math.inf, 0.0))

    with pyro.validation_enabled(False):
        assert not math.isfinite(Renyi(64, alpha=alpha).loss(model, possible_guide, X))


def test_global_particles_where_weights_are_joint():
    with pytest.raises(ValueError, match="'num_global_particles' must be 1 where latents do not lie both"):
        IWELBO(5, num_global_particles=2).loss_and_grads(schools_model, schools_guide)


def test_marginals_where_some_draws_have_weight_zero():
    def model(x):
        with lvm.data_plate(x):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            c = pyro.sample("c", dist.Bernoulli(torch.tensor(0.4)), infer={"enumerate": "parallel"})
            pyro.sample("x", dist.Normal(z + 2 * c, 1.0), obs=x)
            pyro.factor("f", torch.where(z > 0, 0.0, -math.inf) + 0 * c)

    def guide(x):
        with lvm.data_plate(x):
            pyro.sample("z", dist.Normal(x / 2, 1.0))

    found = lvm.marginals(model, guide, X, num_particles=20_000, seed=0)["c"]
    grid = torch.linspace(0.0, 8.0, 8001)[:, None]
    each = [
        torch.logsumexp(dist.Normal(0.0, 1.0).log_prob(grid) + dist.Normal(grid + 2 * c, 1.0).log_prob(X), 0)
        for c in (0, 1)
    ]
    truth = torch.sigmoid(each[1] - each[0] + math.log(0.4 / 0.6))
    torch.testing.assert_close(found.probs, truth, atol=0.02, rtol=0)


def test_the_baseline_of_many_particles_is_that_of_a_few():
    """Memory of K and memory of K^2 give one gradient, also where one weight outweighs the others by far."""
    model, guide, args = CASES["local, discrete"].make()

    class ByOne(IWELBO):
        power = None

        def combine(self, log_weight, dim):
            return torch.logsumexp(log_weight, dim) - math.log(log_weight.shape[dim])

    def scaled(x):
        with pyro.poutine.scale(scale=40.0):
            model(x)

    gradients = []
    for objective in (IWELBO(20), ByOne(20)):
        torch.manual_seed(3)
        loss = objective.differentiable_loss(scaled, guide, *args)
        leaves = [p for _, p in sorted(pyro.get_param_store().named_parameters())]
        gradients.append(torch.autograd.grad(loss, leaves))
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other)


def test_a_laplace_guide_is_taken():
    guide = AutoLaplaceApproximation(schools_model)
    guide()
    assert lvm.check(schools_model, guide).ok


def test_one_argument_that_is_observed_twice_cannot_be_simulated():
    def model(x):
        with lvm.data_plate(x):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("one", dist.Normal(z, 0.1), obs=x)
            pyro.sample("other", dist.Normal(-3.0, 0.1), obs=x)

    with pytest.raises(ValueError, match="Site 'other' observes what another site observes too"):
        RWS(2, insomnia=0.0).loss_and_grads(model, possible_guide, X)


def test_a_single_particle_is_never_awake():
    with pytest.raises(ValueError, match="'num_particles' must be at least 2 in the wake phase"):
        RWS(1)
    RWS(1, insomnia=0.0)


def test_a_wholly_enumerated_guide_runs_once_for_all_particles():
    runs = []

    def model(x):
        runs.append(1)
        with lvm.data_plate(x):
            z = pyro.sample("z", dist.Bernoulli(torch.tensor(0.3)))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x):
        with lvm.data_plate(x):
            pyro.sample("z", dist.Bernoulli(logits=x), infer={"enumerate": "parallel"})

    ELBO(100).bound(model, guide, X)
    assert len(runs) < 10
