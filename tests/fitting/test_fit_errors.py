"""What a fit refuses, and how it says so."""

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from fitting.pairs import X, fit, guide, mean_model, mixture, model
from pyro.distributions import constraints
from pyro.infer import RenyiELBO, Trace_ELBO, TraceGraph_ELBO
from pyro.infer.autoguide import AutoNormal
from pyro.nn import PyroModule, PyroParam

import pyrolvm as lvm


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"objective": lvm.objectives.ELBO}, TypeError, "'objective' must be an instance of an objective.* got ELBO"),
        ({"objective": "elbo"}, TypeError, "'objective' must be an instance of an objective.* got str"),
        ({"optimizer": pyro.optim.Adam({"lr": 0.1})}, TypeError, "'optimizer' must be called .* got a PyroOptim"),
        ({"optimizer": "adam"}, TypeError, "'optimizer' must be called .* got a str"),
        ({"optimizer": lambda parameters, lr: None}, TypeError, "'optimizer' must give a torch.* got NoneType"),
        ({"optimizer": torch.optim.LBFGS}, TypeError, "'optimizer' must take steps without a closure; LBFGS"),
        ({"learning_rate": "fast"}, TypeError, "'learning_rate' must be a number, or a function"),
        ({"learning_rate": 0.0}, ValueError, "'learning_rate' must be positive and finite; got 0"),
        ({"learning_rate": float("inf")}, ValueError, "'learning_rate' must be positive and finite; got inf"),
        ({"learning_rate": float("nan")}, ValueError, "'learning_rate' must be positive and finite; got nan"),
        ({"num_epochs": 3}, ValueError, "give 'num_steps' or 'num_epochs', not both; got 2 and 3"),
        ({"num_steps": 2.5}, TypeError, "'num_steps' must be an integer; got 2.5"),
        ({"num_steps": 0}, ValueError, "'num_steps' must be at least 1; got 0"),
        ({"num_steps": None, "num_epochs": True}, TypeError, "'num_epochs' must be an integer; got True"),
        ({"patience": 0, "validation": X}, ValueError, "'patience' must be at least 1; got 0"),
        ({"patience": 3}, ValueError, "'patience' needs validation data"),
        ({"device": "warp"}, ValueError, "'device' must be one that torch has here.* got 'warp'"),
        ({"device": 0.5}, ValueError, "'device' must be one that torch has here.* got 0.5"),
        ({"device": "meta"}, ValueError, "'device' must be one that torch has here.* got 'meta'"),
        ({"device": "cuda:99"}, ValueError, "device='cuda:99' was asked for, but torch finds no such device"),
        ({"seed": -1}, ValueError, "'seed' must not be negative"),
        ({"seed": 1.0}, TypeError, "'seed' must be an integer or None"),
        ({"data_plate": "rows"}, ValueError, "'data_plate' names no plate: 'rows'. Name one .*: 'data'"),
        ({"data_plate": "rows", "batch_size": 4}, ValueError, "'data_plate' names no plate: 'rows'"),
        ({"validation": X[:0]}, ValueError, "'data' must have at least one row"),
    ],
)
def test_options(options, error, message):
    with pytest.raises(error, match=message):
        fit(model, guide, X, **{"num_steps": 2, **options})


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a CUDA device")
def test_no_cuda():
    with pytest.raises(ValueError, match="device='cuda' was asked for, but torch finds no such device. Pass device='c"):
        fit(model, guide, X, num_steps=2, device="cuda")


def test_two_names_for_the_data_plate():
    def nested(x):
        with pyro.plate("rows", len(x), dim=-2), pyro.plate("columns", 1, dim=-1):
            pyro.sample("x", dist.Normal(pyro.param("mean", torch.tensor(0.0)), 1.0), obs=x[:, None])

    with pytest.raises(ValueError, match="'data_plate' is 'rows', but the objective's is 'columns'"):
        fit(nested, None, X, num_steps=2, data_plate="rows", objective=lvm.objectives.ELBO(data_plate="columns"))
    result = fit(nested, None, X, num_steps=2, objective=lvm.objectives.ELBO(data_plate="rows"))
    assert result.data_plate == "rows"


# ------------------------------------------------------------------------------------------- wrong pairs


def other_guide(kind):
    def wrong(x):
        loc = pyro.param("loc", torch.tensor(0.0))
        with lvm.data_plate(x):
            if kind == "shape":
                pyro.sample("z", dist.Normal(loc, 1.0).expand([2]).to_event(1))
            elif kind != "missing":
                pyro.sample("z", dist.Normal(loc, 1.0))
            if kind == "extra":
                pyro.sample("w", dist.Normal(loc, 1.0))

    return wrong


def positive_model(x):
    with lvm.data_plate(x):
        z = pyro.sample("z", dist.Exponential(1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x)


@pytest.mark.parametrize("objective", [lvm.objectives.ELBO(), Trace_ELBO()], ids=["ours", "pyro's"])
@pytest.mark.parametrize("batch_size", [None, 4])
@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("missing", "The guide does not draw 'z'. Sample it in the guide"),
        ("extra", "The guide draws 'w', which the model does not have"),
        ("shape", "Site 'z' must have shape .* as in the model; the guide gives"),
        ("support", "Site 'z' must lie in .* the model's support"),
    ],
)
def test_wrong_pairs(kind, message, batch_size, objective):
    program = positive_model if kind == "support" else model
    with pytest.raises(ValueError, match=message):
        fit(program, other_guide(kind), X, num_steps=2, batch_size=batch_size, objective=objective)


class Scaled(PyroModule):
    def __init__(self, name=""):
        super().__init__(name)
        self.scale = PyroParam(torch.tensor(1.0), constraint=constraints.positive)


class ScaledModel(Scaled):
    def forward(self, x):
        with lvm.data_plate(x):
            z = pyro.sample("z", dist.Normal(torch.zeros(()), self.scale))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)


class ScaledGuide(Scaled):
    def forward(self, x):
        with lvm.data_plate(x):
            pyro.sample("z", dist.Normal(x / 2, self.scale))


@pytest.mark.parametrize("objective", [lvm.objectives.ELBO(), Trace_ELBO()], ids=["ours", "pyro's"])
def test_colliding_parameter_names(objective):
    pair = ScaledModel(), ScaledGuide()
    with pytest.raises(ValueError, match="Model and guide both own a parameter named 'scale'.*Give one of the modules"):
        fit(*pair, X, num_steps=2, objective=objective)
    assert pair[0].scale_unconstrained is not pair[1].scale_unconstrained  # they are as they were
    result = fit(ScaledModel(), ScaledGuide("guide"), X, num_steps=2, objective=objective)
    assert result.model.scale != result.guide.scale


def test_nothing_to_fit():
    with pytest.raises(ValueError, match="there is nothing to fit"):
        fit(model, model_prior, X, num_steps=2)


def model_prior(x):
    with lvm.data_plate(x):
        pyro.sample("z", dist.Normal(torch.zeros(()), 1.0))


def test_values_that_a_model_of_the_collection_cannot_produce():
    vae = lvm.models.VAE(1, torch.nn.Linear(1, 2))
    with pytest.raises(ValueError, match="must hold only 0 and 1"):
        fit(vae, None, torch.full((3, 2), 0.5), num_steps=2)


# ------------------------------------------------------------------------------------------- Pyro's objectives


def test_pyro_objectives_that_do_not_enumerate():
    for objective in (Trace_ELBO(), TraceGraph_ELBO()):
        with pytest.raises(ValueError, match="does not sum out enumerated sites such as 'k'.*TraceEnum_ELBO"):
            fit(mixture, None, X, num_steps=2, objective=objective)


def outside(x):
    mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
    with lvm.data_plate(x):
        pyro.sample("x", dist.Normal(mean, 1.0), obs=x)


def coins(x):
    with lvm.data_plate(x):
        z = pyro.sample("z", dist.Bernoulli(0.3))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x)


def coins_guide(x):
    with lvm.data_plate(x):
        pyro.sample("z", dist.Bernoulli(pyro.param("p", torch.tensor(0.5), constraint=constraints.unit_interval)))


@pytest.mark.parametrize(
    ("pair", "batch_size", "reason"),
    [
        (lambda: (model, guide), 4, "it multiplies N/B inside the logarithm"),
        (lambda: (mixture, None), None, "it does not sum out enumerated sites"),
        (lambda: (outside, AutoNormal(outside)), None, "it has one weight for the whole data set"),
        (lambda: (coins, coins_guide), None, "it gives no gradient to 'z'"),
    ],
)
def test_renyi_is_refused_where_it_is_wrong(pair, batch_size, reason):
    objective = RenyiELBO(num_particles=2, vectorize_particles=True)
    with pytest.raises(ValueError, match=f"RenyiELBO is wrong for this pair: {reason}.*Use lvm.objectives.IWELBO"):
        fit(*pair(), X, num_steps=2, batch_size=batch_size, objective=objective)


# ------------------------------------------------------------------------------------------- minibatches


def no_plate(x):
    pyro.sample("x", dist.Normal(pyro.param("mean", torch.tensor(0.0)), 1.0).expand([len(x)]).to_event(1), obs=x)


def in_turn(x):
    mean = pyro.param("mean", torch.tensor(0.0))
    for row in pyro.plate("data", len(x)):
        pyro.sample(f"x{row}", dist.Normal(mean, 1.0), obs=x[row])


@pytest.mark.parametrize("program", [no_plate, in_turn])
def test_minibatches_need_a_data_plate(program):
    with pytest.raises(ValueError, match="'batch_size' needs a data plate .* found none. Open one with lvm.data_plate"):
        fit(program, None, X, num_steps=2, batch_size=4)


def test_an_enumerated_site_outside_of_the_plate_ties_the_data():
    def switch(x):
        k = pyro.sample("k", dist.Bernoulli(0.4), infer={"enumerate": "parallel"})
        with lvm.data_plate(x):
            pyro.sample("x", dist.Normal(k, pyro.param("scale", torch.tensor(1.0))), obs=x)

    with pytest.raises(ValueError, match="'data' is subsampled, but site 'k' ties its rows together"):
        fit(switch, None, X, num_steps=2, batch_size=4)
    assert fit(switch, None, X, num_steps=2).data_plate is None


def test_an_error_of_the_user_s_program_comes_out_as_it_is():
    def careless(x):
        raise ValueError("mine alone")

    for batch_size in (None, 4):
        with pytest.raises(ValueError, match="^mine alone$"):
            fit(careless, None, X, num_steps=2, batch_size=batch_size)


def test_a_late_error_of_the_user_s_program_comes_out_as_it_is():
    def careless(x):
        careless.calls += 1
        if careless.calls > 8:
            raise ValueError("mine alone")
        mean_model(x)

    careless.calls = 0
    with pytest.raises(ValueError, match="^mine alone$"):
        fit(careless, None, X, num_epochs=20, batch_size=4)


@pytest.mark.parametrize("use", [fit, lvm.evidence.importance, lvm.check, lvm.features])
def test_a_guide_that_was_forgotten(use):
    for data in (X, X.numpy()):
        with pytest.raises(TypeError, match="'guide' must be a Pyro program; got .* and it stands before the data"):
            use(model, data)
    with pytest.raises(TypeError, match="'model' must be a Pyro program; got Tensor. lvm.models has some"):
        use(X, guide, X)
    with pytest.raises(TypeError, match="got the class MeanField. Make an object of it"):
        use(model, lvm.guides.MeanField, X)


def test_masked_arrays():
    masked = np.ma.masked_equal(np.arange(6).reshape(3, 2), 0)
    remedy = r"must have no masked entries: a tensor has no mask\. Pass x\.astype\(float\)\.filled\(np\.nan\), say"
    with pytest.raises(TypeError, match=f"'data' {remedy}"):
        fit(mean_model, None, masked, num_steps=2)
    with pytest.raises(TypeError, match=f"'x' {remedy}"):  # not the density of what lies beneath the mask
        lvm.models.GaussianMixture(1, 2).log_density(masked)
    estimator = lvm.estimators.ProbabilisticPCA(1)
    with pytest.raises(TypeError, match=f"'X' {remedy}"):
        estimator.fit(masked)
    with pytest.raises(TypeError, match=f"'X' {remedy}"):
        estimator.fit(np.random.default_rng(0).normal(size=(20, 2))).score_samples(masked)
    assert np.isnan(masked.astype(float).filled(np.nan)[0, 0])


def test_masked_arrays_of_which_nothing_is_masked_are_arrays():
    bare = np.arange(6.0).reshape(3, 2)
    model = lvm.models.GaussianMixture(1, 2)
    assert torch.equal(model.log_density(np.ma.array(bare)), model.log_density(bare))
    assert torch.equal(lvm.programs.as_arguments((np.ma.array(bare),))[0], torch.tensor(bare))


class Unregistered:
    """x ~ N(net(0), scale^2), by a network that Pyro is not told of, unless asked to."""

    def __init__(self, registers=False):
        self.net, self.registers = torch.nn.Linear(1, 1), registers

    def model(self, x):
        if self.registers:
            pyro.module("net", self.net)
        scale = pyro.param("scale", torch.tensor(1.0), constraint=constraints.positive)
        with lvm.data_plate(x):
            pyro.sample("x", dist.Normal(self.net(torch.zeros(1)).squeeze(), scale), obs=x)


def test_a_network_that_pyro_does_not_know_of():
    """It stays where it is, which would otherwise be found out late, if at all."""
    pair = Unregistered()
    start = pair.net.bias.clone()
    with pytest.warns(UserWarning, match=r"'weight' of Linear and 1 more, which Pyro does not know of.*pyro.module"):
        fit(pair.model, None, X, num_steps=3)
    assert pair.net.bias == start
    assert pair.net.bias.grad is None
    pair.net.bias.grad = torch.ones(1)  # left by another fit
    with pytest.warns(UserWarning, match="which Pyro does not know of"):
        fit(pair.model, None, X, num_steps=3)
    assert pair.net.bias == start
    pair.net.requires_grad_(False)
    fit(pair.model, None, X, num_steps=3)
    known = Unregistered(registers=True)
    start = known.net.bias.clone()
    fit(known.model, None, X, num_steps=3)
    assert known.net.bias != start


def test_what_an_optimizer_trains_by_itself_is_trained():
    pair = Unregistered()
    start = pair.net.bias.clone()
    fit(pair.model, None, X, num_steps=3, optimizer=lambda p, lr: torch.optim.Adam([*p, *pair.net.parameters()], lr))
    assert pair.net.bias != start
