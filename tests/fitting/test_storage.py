"""Fits on disk: what is read is what was written, and nothing else is accepted."""

import functools
import json

import pyro
import pyro.distributions as dist
import pytest
import torch
from fitting.pairs import Encoder, Mixed, X, fit, guide, mean_model, mixture, model, registering
from pyro.distributions import constraints
from pyro.infer.autoguide import AutoGuideList, AutoMultivariateNormal, AutoNormal
from torch.distributions import ExpTransform, transform_to

import pyrolvm as lvm
from pyrolvm.fitting.constraints import constraint_from_json, constraint_to_json


@pytest.fixture
def path(tmp_path):
    return tmp_path / "fit.safetensors"


class Pair(torch.nn.Module):
    """A model and a guide that are methods, in the way of Pyro's tutorials."""

    def __init__(self):
        super().__init__()
        self.decoder, self.encoder = torch.nn.Linear(1, 1), torch.nn.Linear(1, 1)

    def model(self, x):
        pyro.module("decoder", self.decoder)
        with lvm.data_plate(x):
            z = pyro.sample("z", dist.Normal(torch.zeros(()), 1.0))
            pyro.sample("x", dist.Normal(self.decoder(z[..., None])[..., 0], 1.0), obs=x)

    def guide(self, x):
        pyro.module("encoder", self.encoder)
        with lvm.data_plate(x):
            pyro.sample("z", dist.Normal(self.encoder(x[:, None])[:, 0], 1.0))


def with_globals(x):
    mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
    with lvm.data_plate(x):
        pyro.sample("x", dist.Normal(mean, pyro.param("scale", torch.tensor(1.0))), obs=x)


def pair_of_methods():
    pair = Pair()
    return pair.model, pair.guide


def amortized():
    vae = lvm.models.VAE(1, torch.nn.Linear(1, 1), lvm.likelihoods.Gaussian())
    return vae, lvm.guides.Amortized(vae, torch.nn.Linear(1, 2))


# Programs, and the arguments that loading needs.
PAIRS = {
    "functions": (lambda: (model, guide), ()),
    "functions, with the data": (lambda: (model, guide), (X,)),
    "both functions have parameters": (lambda: (functools.partial(scaled_model, 1.0), guide), (X,)),
    "enumerated": (lambda: (mixture, None), ()),
    "AutoNormal": (lambda: (model, AutoNormal(model)), (X,)),
    "AutoNormal, with an array": (lambda: (model, AutoNormal(model)), (X.numpy(),)),
    "MeanField": (lambda: (with_globals, lvm.guides.MeanField(with_globals)), (X,)),
    "FullRank": (lambda: (with_globals, lvm.guides.FullRank(with_globals)), (X,)),
    "AutoMultivariateNormal": (lambda: (with_globals, AutoMultivariateNormal(with_globals)), (X,)),
    "module": (lambda: (model, Encoder()), ()),
    "module in partial": (lambda: (model, functools.partial(Encoder())), (X,)),
    "function and module": (lambda: (functools.partial(scaled_model, 1.0), Encoder()), ()),
    "module with a stored parameter": (lambda: (model, Mixed()), (X,)),
    "module with a stored parameter, without data": (lambda: (model, Mixed()), ()),
    "methods": (pair_of_methods, ()),
    "registered modules": (lambda: (model, registering()), (X,)),
}


def scaled_model(width, x):
    shift = pyro.param("shift", torch.tensor(0.1))
    with lvm.data_plate(x):
        z = pyro.sample("z", dist.Normal(shift, 1.0))
        pyro.sample("x", dist.Normal(z, width), obs=x)


@pytest.mark.filterwarnings("ignore:.*k-hat", "ignore:IWELBO.* equals the ELBO here")
@pytest.mark.parametrize("batch_size", [None, 4])
@pytest.mark.parametrize(("make", "args"), PAIRS.values(), ids=PAIRS)
def test_evaluation_gives_the_same_numbers(path, make, args, batch_size):
    torch.manual_seed(0)
    result = fit(*make(), X, num_steps=6, batch_size=batch_size, validation=X, learning_rate=0.05)
    result.save(path)
    torch.manual_seed(1)  # new modules start elsewhere
    store = dict(pyro.get_param_store().named_parameters())
    generator = torch.get_rng_state()
    loaded = lvm.load(path, *make(), *args)
    assert torch.equal(generator[-16:], torch.get_rng_state()[-16:]) or not args
    assert dict(pyro.get_param_store().named_parameters()) == store
    for evaluate in (
        lambda fit: lvm.objectives.ELBO(3).bound(fit.model, fit.guide, X, seed=1),
        lambda fit: lvm.objectives.IWELBO(3).bound(fit.model, fit.guide, X, seed=1),
        lambda fit: lvm.evidence.importance(fit.model, fit.guide, X, num_particles=10, seed=1).log_evidence,
    ):
        assert torch.equal(evaluate(loaded), evaluate(result))
    assert torch.equal(loaded.losses, result.losses)
    for name in ("validation", "converged", "seconds", "data_plate"):
        assert getattr(loaded, name) == getattr(result, name)
    assert loaded.registered.keys() == result.registered.keys()
    assert not list(path.parent.glob("*.tmp"))


def test_a_guide_whose_heads_are_made_on_the_first_run(path):
    column = X[:, None]
    result = fit(*amortized(), column, num_steps=3)
    result.save(path)
    new = amortized()
    with pytest.raises(ValueError, match="'heads.* of the guide does not exist yet: .* Pass the programs' arg"):
        lvm.load(path, *new)
    loaded = lvm.load(path, *new, column)
    assert loaded.guide is new[1]
    assert torch.equal(*(lvm.objectives.ELBO().bound(f.model, f.guide, column, seed=0) for f in (loaded, result)))


def schools():
    return lvm.models.eight_schools_noncentered(X[:3], torch.ones(3))


def in_parts(program):
    parts = AutoGuideList(program)
    parts.append(AutoNormal(pyro.poutine.block(program, expose=["mu", "tau"])))
    parts.append(AutoMultivariateNormal(pyro.poutine.block(program, hide=["mu", "tau"])))
    return parts


@pytest.mark.parametrize("family", [AutoNormal, AutoMultivariateNormal, lvm.guides.FullRank, in_parts])
def test_programs_without_arguments_need_none(path, family):
    result = fit(schools, family(schools), num_steps=3)
    result.save(path)
    loaded = lvm.load(path, schools, family(schools))
    assert loaded.data_plate is None
    assert torch.equal(*(lvm.objectives.ELBO().bound(f.model, f.guide, seed=0) for f in (loaded, result)))


def test_a_loaded_fit_can_be_fitted_on_and_saved_again(path):
    first = fit(model, guide, X, num_steps=3)
    first.save(path)
    loaded = lvm.load(path, model, guide)
    again = fit(loaded.model, loaded.guide, X, num_steps=3)
    assert torch.equal(again.losses, fit(first.model, first.guide, X, num_steps=3).losses)
    loaded.save(path)
    assert lvm.load(path, model, guide).guide.parameters == first.guide.parameters


def test_bound_programs_are_taken_as_the_programs_in_them(path):
    result = fit(model, guide, X, num_steps=3)
    result.save(path)
    other = fit(model, guide, X, num_steps=9)
    loaded = lvm.load(path, other.model, other.guide, X)
    assert loaded.guide.parameters == result.guide.parameters
    assert loaded.guide.parameters != other.guide.parameters


def test_float32(path):
    torch.set_default_dtype(torch.float32)
    result = fit(model, guide, X, num_steps=3)
    result.save(path)
    loaded = lvm.load(path, model, guide, X)
    assert loaded.guide.parameters["slope"].dtype == torch.float32
    assert torch.equal(*(lvm.objectives.ELBO().bound(f.model, f.guide, X, seed=0) for f in (loaded, result)))


def test_what_is_not_finite_is_kept(path):
    result = lvm.FitResult(mean_model, None, torch.tensor([torch.inf, torch.nan]), [(3, -torch.inf)], False, 1.5)
    result.save(path)
    loaded = lvm.load(path, mean_model)
    assert torch.equal(loaded.losses.nan_to_num(1.0), result.losses.nan_to_num(1.0))
    assert loaded.validation == [(3, -torch.inf)]
    assert (loaded.converged, loaded.seconds, loaded.num_steps) == (False, 1.5, 2)


# ------------------------------------------------------------------------------------------- constraints

CONSTRAINTS = {
    "real": (constraints.real, (3,)),
    "real_vector": (constraints.real_vector, (3,)),
    "positive": (constraints.positive, (3,)),
    "nonnegative": (constraints.nonnegative, (3,)),
    "softplus_positive": (constraints.softplus_positive, (3,)),
    "greater_than": (constraints.greater_than(-1.5), (3,)),
    "greater_than a vector": (constraints.greater_than(torch.tensor([1.0, 2.0, -3.0])), (3,)),
    "greater_than_eq": (constraints.greater_than_eq(2), (3,)),
    "less_than": (constraints.less_than(0.1), (3,)),
    "unit_interval": (constraints.unit_interval, (3,)),
    "interval": (constraints.interval(-1, 2.5), (3,)),
    "interval of tensors": (constraints.interval(torch.tensor([0.0, 1.0]), torch.tensor(4.0)), (3, 2)),
    "half_open_interval": (constraints.half_open_interval(-1.0, 0.3), (3,)),
    "simplex": (constraints.simplex, (3,)),
    "ordered_vector": (constraints.ordered_vector, (3,)),
    "positive_ordered_vector": (constraints.positive_ordered_vector, (3,)),
    "sphere": (constraints.sphere, (3,)),
    "lower_cholesky": (constraints.lower_cholesky, (3, 3)),
    "softplus_lower_cholesky": (constraints.softplus_lower_cholesky, (3, 3)),
    "unit_lower_cholesky": (constraints.unit_lower_cholesky, (3, 3)),
    "positive_definite": (constraints.positive_definite, (3, 3)),
    "corr_cholesky": (constraints.corr_cholesky, (3,)),
    "corr_matrix": (constraints.corr_matrix, (3,)),
    "independent": (constraints.independent(constraints.positive, 1), (2, 3)),
    "independent twice": (constraints.independent(constraints.independent(constraints.simplex, 1), 1), (2, 2, 3)),
    "stack": (constraints.stack([constraints.positive, constraints.interval(0.0, 1.0)], dim=-1), (3, 2)),
    "cat": (constraints.cat([constraints.positive, constraints.real], dim=0, lengths=[1, 2]), (3,)),
}


@pytest.mark.parametrize(("constraint", "shape"), CONSTRAINTS.values(), ids=CONSTRAINTS)
def test_constraints_behave_as_before(constraint, shape):
    written = json.dumps(constraint_to_json(constraint), allow_nan=False)
    restored = constraint_from_json(json.loads(written))
    assert type(restored) is type(constraint)
    unconstrained = torch.randn(shape)
    value = transform_to(constraint)(unconstrained)
    assert torch.equal(transform_to(restored)(unconstrained), value)
    assert torch.equal(restored.check(value), constraint.check(value))
    assert restored.event_dim == constraint.event_dim


def test_a_bound_that_is_infinite():
    restored = constraint_from_json(constraint_to_json(constraints.interval(-torch.inf, 2.0)))
    assert (restored.lower_bound, restored.upper_bound) == (-torch.inf, 2.0)


@pytest.mark.parametrize("name", ["positive", "simplex", "softplus_lower_cholesky", "interval of tensors"])
def test_constrained_parameters_in_a_file(path, name):
    constraint, shape = CONSTRAINTS[name]
    initial = transform_to(constraint)(torch.randn(shape))

    def constrained(x):
        value = pyro.param("value", initial, constraint=constraint)
        with lvm.data_plate(x):
            pyro.sample("x", dist.Normal(value.sum(), 1.0), obs=x)

    result = fit(constrained, None, X, num_steps=3)
    result.save(path)
    loaded = lvm.load(path, constrained, None, X)
    assert torch.equal(loaded.model.parameters["value"], result.model.parameters["value"])


def test_a_constraint_that_cannot_be_written(path):
    class Even(type(constraints.positive)):
        def __init__(self):
            super().__init__(0.0)

    transform_to.register(Even, lambda _: ExpTransform())

    def constrained(x):
        value = pyro.param("value", torch.tensor(2.0), constraint=Even())
        with lvm.data_plate(x):
            pyro.sample("x", dist.Normal(value, 1.0), obs=x)

    result = fit(constrained, None, X, num_steps=2)
    with pytest.raises(TypeError, match="parameter 'value' of the model cannot be written: constraint .* class Even"):
        result.save(path)
    assert not path.exists()


def test_a_fit_by_expectation_maximization(path):
    result = lvm.fit_em(lvm.models.GaussianMixture(2, 1), X[:, None], num_restarts=1, seed=0, progress=False)
    result.save(path)
    loaded = lvm.load(path, lvm.models.GaussianMixture(2, 1))
    assert loaded.guide is None
    assert loaded.converged is result.converged
    assert torch.equal(loaded.model.log_density(X[:, None]), result.model.log_density(X[:, None]))
