"""Where Pyro 1.9.2 gives a wrong number, or none: its own class and ours, each beside the truth."""

import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from laws.cases import POINTS, mixture_density, toy_discrete_guide, toy_discrete_model, toy_evidence, toy_model
from pyro.infer import RenyiELBO, ReweightedWakeSleep, Trace_ELBO, TraceEnum_ELBO, autoguide
from pyro.infer.importance import psis_diagnostic, vectorized_importance_weights

import pyrolvm as lvm
from pyrolvm.programs import parameter_scope, run_apart

MU, SPREAD = 0.2, math.sqrt(0.5)  # of the toy's prior, and of its posterior N((x + MU) / 2, 1 / 2)


@pytest.fixture(autouse=True)
def _empty_store():
    """Autoguides of one kind share the names of their parameters, and Pyro hands on what its store holds."""
    pyro.clear_param_store()
    yield
    pyro.clear_param_store()


def wide(x):
    """The posterior's mean with twice its spread: the weights' distribution does not depend on the datum."""
    with lvm.data_plate(x):
        pyro.sample("z", dist.Normal((x + MU) / 2, 2 * SPREAD))


def wide_gap(num_particles, order=80):
    """E[log 1/K sum_k r(e_k)] for K = 1, 2, where r = N(z; 0, s) / N(z; 0, 2s), z = 2 s e: by Gauss-Hermite."""
    nodes, mass = (torch.tensor(v) for v in np.polynomial.hermite_e.hermegauss(order))
    mass = mass / mass.sum()
    log_ratio = math.log(2) - 1.5 * nodes**2
    if num_particles == 1:
        return (mass * log_ratio).sum()
    pairs = torch.logaddexp(log_ratio[:, None], log_ratio) - math.log(2)
    return (mass[:, None] * mass * pairs).sum()


def renyi(num_particles, vectorize=True, nesting=1):
    return RenyiELBO(alpha=0, num_particles=num_particles, vectorize_particles=vectorize, max_plate_nesting=nesting)


def mean_and_error(draw, repeats):
    values = []
    for seed in range(repeats):
        torch.manual_seed(seed)
        values.append(torch.as_tensor(draw()))
    values = torch.stack(values)
    return values.mean(0), values.std(0) / math.sqrt(repeats)


def bound_toy(guide):
    return lvm.bind(toy_model, guide, POINTS)


def test_renyi_multiplies_the_scale_inside_the_logarithm():
    """On a subsampled plate its "bound" is above log p(x)."""
    num_data, rows = 60, torch.arange(6)
    truth = 10 * (toy_evidence() + wide_gap(2)).sum()
    with lvm.minibatch(num_data, rows):
        model, guide = bound_toy(wide)
        theirs, error = mean_and_error(lambda: -renyi(2).loss(model, guide, POINTS), 200)
        ours, our_error = mean_and_error(lambda: -lvm.objectives.IWELBO(2).loss(model, guide, POINTS), 200)
        many, _ = mean_and_error(lambda: -renyi(100).loss(model, guide, POINTS), 20)
    assert (theirs - truth).abs() > 10 * error
    assert many > 10 * toy_evidence().sum() + 1.0
    assert (ours - truth).abs() < 4 * our_error


def globals_model(x):
    m = pyro.sample("m", dist.Normal(torch.zeros(()), 1.0))
    with lvm.data_plate(x):
        z = pyro.sample("z", dist.Normal(m, 0.5))
        pyro.sample("x", dist.Normal(z, 0.5), obs=x)


def globals_guide(x):
    """The posterior of m, and that of each z given m with twice its spread."""
    precision = 1 + 2 * len(x)
    m = pyro.sample("m", dist.Normal(2 * x.sum() / precision, precision**-0.5))
    with lvm.data_plate(x):
        pyro.sample("z", dist.Normal((m + x) / 2, 2 * math.sqrt(0.125)))


def test_renyi_weights_collapse_where_a_site_lies_outside_the_plate():
    """Ours weights each datum's locals given one draw of the globals; Pyro's is the looser joint bound."""
    x = torch.tensor([-2.0, 2.0, -1.5, 1.5]).repeat(5)
    covariance = 0.5 * torch.eye(len(x)) + 1
    truth = dist.MultivariateNormal(torch.zeros(len(x)), covariance).log_prob(x) + len(x) * wide_gap(2)
    objectives = renyi(2), lvm.objectives.IWELBO(2), lvm.objectives.IWELBO(2, over="all")
    moments = [mean_and_error(lambda o=o: -o.loss(globals_model, globals_guide, x), 400) for o in objectives]
    (theirs, error), (ours, our_error), (joint, joint_error) = moments
    assert (ours - truth).abs() < 4 * our_error
    assert theirs < truth - 10 * error
    assert (theirs - joint).abs() < 4 * torch.sqrt(error**2 + joint_error**2)


def test_particles_run_one_by_one_redraw_the_minibatch():
    """With the exact posterior the bound is 3 (log p(x_i) + log p(x_j)) for the rows of the step, without noise."""
    data, drawn = 3 * POINTS, []
    evidence = dist.Normal(MU, math.sqrt(2.0)).log_prob(data)

    def model():
        with pyro.plate("data", 6, subsample_size=2) as rows:
            z = pyro.sample("z", dist.Normal(MU, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=data[rows])

    def guide():
        with pyro.plate("data", 6, subsample_size=2) as rows:
            drawn.append(rows)
            pyro.sample("z", dist.Normal((data[rows] + MU) / 2, SPREAD))

    ours = lvm.objectives.IWELBO(8, vectorize_particles=False)
    ours.loss(model, guide)  # finds the structure
    theirs = []
    for seed in range(40):
        torch.manual_seed(seed)
        drawn.clear()
        bound = -ours.loss(model, guide)
        assert all(torch.equal(rows, drawn[0]) for rows in drawn)
        assert bound == pytest.approx((3 * evidence[drawn[0]]).sum().item())
        drawn.clear()
        theirs.append(-renyi(8, vectorize=False).loss(model, guide))
        assert not all(torch.equal(rows, drawn[0]) for rows in drawn)
    assert sum(theirs) / len(theirs) > evidence.sum() + 5.0


def test_renyi_gives_a_discrete_site_no_gradient():
    """The gradient of IWELBO(2) with respect to the guide is all the score function's; summed over both draws."""
    slope, values = torch.tensor(0.7, requires_grad=True), torch.tensor([[0.0], [1.0]])
    log_q = dist.Bernoulli(logits=slope * POINTS).log_prob(values)  # (2, N)
    log_joint = dist.Bernoulli(torch.tensor(0.3)).log_prob(values) + dist.Normal(2 * values - 1, 1.0).log_prob(POINTS)
    log_weight = log_joint - log_q
    pairs = torch.logaddexp(log_weight[:, None], log_weight) - math.log(2)
    (truth,) = torch.autograd.grad(-((log_q[:, None] + log_q).exp() * pairs).sum(), slope)
    args = (toy_discrete_model, toy_discrete_guide, POINTS)
    with parameter_scope(*args[:2]):
        run_apart(*args)
        leaf = dict(pyro.get_param_store().named_parameters())["slope"]
        renyi(2).loss_and_grads(*args)
        assert leaf.grad == 0.0
        objective = lvm.objectives.IWELBO(2)
        ours, error = mean_and_error(lambda: torch.autograd.grad(objective.differentiable_loss(*args), leaf)[0], 400)
    assert (ours - truth).abs() < 4 * error
    assert truth.abs() > 8 * error


def test_renyi_meets_enumeration_with_a_warning_and_a_wrong_number():
    weights, locs = torch.tensor([0.2, 0.3, 0.5]), torch.tensor([[-1.0], [0.8], [2.5]])
    x = POINTS[:, None]

    def model(x):
        with lvm.data_plate(x):
            z = pyro.sample("z", dist.Categorical(weights), infer={"enumerate": "parallel"})
            pyro.sample("x", dist.Normal(locs[z], 1.0).to_event(1), obs=x)

    empty, truth = lvm.guides.Empty(), mixture_density(x, weights, locs).sum()
    with pytest.warns(UserWarning, match="Found vars in model but not guide"):
        theirs = -renyi(20_000).loss(model, empty, x)
    assert abs(theirs - truth) > 1.0
    assert -lvm.objectives.IWELBO(5).loss(model, empty, x) == pytest.approx(truth.item())


@pytest.mark.parametrize(("dtype", "distance"), [(torch.float32, 25.0), (torch.float64, 60.0)])
def test_enumeration_underflows_where_factors_disagree(dtype, distance):
    """Three sensors of one hidden state, one of which rules out the state that the others ask for."""
    states = torch.tensor([0.0, distance], dtype=dtype)
    prior = torch.tensor([0.4, 0.6], dtype=dtype)
    x = states[torch.tensor([[0, 0, 1], [1, 1, 0]])]

    def model(x):
        shift = pyro.param("shift", torch.zeros((), dtype=dtype))
        with lvm.data_plate(x):
            z = pyro.sample("z", dist.Categorical(prior), infer={"enumerate": "parallel"})
            for i in range(3):
                pyro.sample(f"x{i}", dist.Normal(states[z] + shift, 1.0), obs=x[:, i])

    shift = torch.zeros((), dtype=dtype, requires_grad=True)
    sensors = dist.Normal(states + shift, 1.0).log_prob(x[:, :, None]).sum(1)
    truth = torch.logsumexp(prior.log() + sensors, -1).sum()
    (slope,) = torch.autograd.grad(truth, shift)
    args = (model, lvm.guides.Empty(), x)
    with parameter_scope(model, None):
        run_apart(model, None, x)
        leaf = dict(pyro.get_param_store().named_parameters())["shift"]
        assert TraceEnum_ELBO(max_plate_nesting=1).loss(*args) == math.inf
        ours = -lvm.objectives.ELBO().differentiable_loss(*args)
        torch.testing.assert_close(ours, truth)
        torch.testing.assert_close(torch.autograd.grad(ours, leaf)[0], slope)


def exact_auto_diagonal(x):
    """AutoDiagonalNormal at the toy's posterior: its one weight is p(x), for every draw."""
    guide = autoguide.AutoDiagonalNormal(toy_model, init_scale=SPREAD)
    guide(x)
    with torch.no_grad():
        guide.loc.copy_((x + MU) / 2)
    return guide


def test_renyi_counts_an_auxiliary_site_outside_the_plate_once_for_each_datum():
    guide = exact_auto_diagonal(POINTS)
    truth = toy_evidence().sum().item()
    assert -lvm.objectives.IWELBO(8).loss(toy_model, guide, POINTS) == pytest.approx(truth)
    assert abs(-renyi(8).loss(toy_model, guide, POINTS) - truth) > 10.0


def test_an_auxiliary_site_outside_the_plate_is_not_scaled_with_its_rows():
    """At the posterior of its rows a minibatch's bound is N/B of their log p(x); Pyro's is not, ours refuses."""
    rows = torch.tensor([0, 1])
    with lvm.minibatch(6, rows):
        guide = exact_auto_diagonal(POINTS[rows])
        theirs, error = mean_and_error(lambda: -Trace_ELBO().loss(toy_model, guide, POINTS[rows]), 50)
        assert (theirs - 3 * toy_evidence()[rows].sum()).abs() > 10 * error
        with pytest.raises(ValueError, match="Plate 'data' is subsampled, but site '_AutoDiagonalNormal_latent'"):
            lvm.objectives.ELBO().loss(toy_model, guide, POINTS[rows])


TYING = ["AutoDiagonalNormal", "AutoMultivariateNormal", "AutoLowRankMultivariateNormal"]
TYING += ["AutoStructured", "AutoIAFNormal", "AutoGaussian"]


@pytest.mark.parametrize("name", TYING)
def test_autoguides_size_their_latents_to_the_first_minibatch(name):
    """Pyro's gives rows 4 and 5 the latents of rows 0 and 1, without a word."""

    def model(rows):
        with pyro.plate("data", 6, subsample=rows):
            z = pyro.sample("z", dist.Normal(MU, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=POINTS[rows])

    first, second = torch.tensor([0, 1]), torch.tensor([4, 5])
    guide = getattr(autoguide, name)(model)
    Trace_ELBO().loss(model, guide, first)
    shapes = [tuple(p.shape) for p in guide.parameters()]
    assert math.isfinite(Trace_ELBO().loss(model, guide, second))
    assert [tuple(p.shape) for p in guide.parameters()] == shapes
    assert not any(6 in shape for shape in shapes)
    ours = getattr(autoguide, name)(toy_model)
    for rows in (first, second):
        with (
            lvm.minibatch(6, rows),
            pytest.raises(ValueError, match="Plate 'data' is subsampled, but site .* ties its rows together"),
        ):
            lvm.objectives.ELBO().loss(toy_model, ours, POINTS[rows])


def test_autoguides_draw_rows_of_their_own():
    """AutoNormal with each row's posterior: exact, if only its rows are those of the data."""

    def model(x, rows):
        with pyro.plate("data", 6, subsample=rows):
            z = pyro.sample("z", dist.Normal(MU, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    rows = torch.tensor([4, 2])
    args = (POINTS[rows], rows)
    guide = autoguide.AutoNormal(model, init_scale=SPREAD)
    guide(*args)
    with torch.no_grad():
        guide.locs.z_unconstrained.copy_((POINTS + MU) / 2)
    truth = 3 * toy_evidence()[rows].sum()
    theirs, error = mean_and_error(lambda: -Trace_ELBO().loss(model, guide, *args), 100)
    assert theirs < truth - 5 * error
    with pytest.raises(ValueError, match="rows"):
        lvm.objectives.ELBO().loss(model, guide, *args)
    with lvm.minibatch(6, rows):
        assert -lvm.objectives.ELBO().loss(model, guide, *args) == pytest.approx(truth.item())


def gradients_at_the_posterior(objective, repeats=50):
    """Gradients of the guide's parameters, where the guide is the posterior: their mean is 0."""

    def guide(x):
        slope, scale = pyro.param("slope", torch.tensor(0.5)), pyro.param("scale", torch.tensor(SPREAD))
        with lvm.data_plate(x):
            pyro.sample("z", dist.Normal(slope * x + MU / 2, scale))

    with parameter_scope(toy_model, guide):
        run_apart(toy_model, guide, POINTS)
        named = dict(pyro.get_param_store().named_parameters())
        leaves = [named["slope"], named["scale"]]
        rows = []
        for seed in range(repeats):
            torch.manual_seed(seed)
            loss = objective.differentiable_loss(toy_model, guide, POINTS)
            rows.append(torch.stack(torch.autograd.grad(loss, leaves)))
    return torch.stack(rows)


@pytest.mark.parametrize("ours", ["STL", "DReG"])
def test_trace_elbo_does_not_stick_the_landing(ours):
    theirs = gradients_at_the_posterior(Trace_ELBO(num_particles=4, vectorize_particles=True, max_plate_nesting=1))
    assert (theirs.std(0) > 0.1).all()
    for num_particles in (1, 4):
        assert gradients_at_the_posterior(getattr(lvm.objectives, ours)(num_particles)).abs().max() < 1e-9


@pytest.mark.parametrize("ours", ["ELBO", "STL", "IWELBO", "DReG"])
def test_trace_elbo_waits_for_the_device_at_each_site(ours, monkeypatch):
    model, guide = bound_toy(wide)
    objective = getattr(lvm.objectives, ours)(2)
    objective.loss_and_grads(model, guide, POINTS)  # finds the structure
    item, count = torch.Tensor.item, []
    monkeypatch.setattr(torch.Tensor, "item", lambda tensor: count.append(1) or item(tensor))
    with pyro.validation_enabled(False):
        Trace_ELBO().loss_and_grads(model, guide, POINTS)
        assert len(count) >= 3  # z and x in the model, z in the guide
        count.clear()
        objective.loss_and_grads(model, guide, POINTS)
    assert not count


def many_points(num_data=200):
    return torch.linspace(-2.0, 2.0, num_data)


def narrow(x):
    """A guide of 0.7 times the posterior's variance: the weights' tail has k = 0.3 for each datum."""
    with lvm.data_plate(x):
        pyro.sample("z", dist.Normal((x + MU) / 2, SPREAD * math.sqrt(0.7)))


def test_psis_diagnostic_judges_all_data_by_one_weight():
    x = many_points()
    model, guide = lvm.bind(toy_model, narrow, x)
    torch.manual_seed(0)
    theirs = psis_diagnostic(model, guide, x, num_particles=20_000, max_plate_nesting=1)
    ours = lvm.evidence.importance(model, guide, x, num_particles=20_000, seed=0).khat
    assert theirs > 0.6
    assert ours.shape == (200,)
    assert (ours.mean() - 0.3).abs() < 0.1
    assert (ours < 0.6).all()


def test_vectorized_importance_weights_are_one_weight_for_all_data():
    x = many_points()
    truth = dist.Normal(MU, math.sqrt(2.0)).log_prob(x)
    model, guide = lvm.bind(toy_model, wide, x)
    torch.manual_seed(0)
    weights, _, _ = vectorized_importance_weights(model, guide, x, num_samples=2000, max_plate_nesting=1)
    assert weights.shape == (2000,)
    assert torch.logsumexp(weights, 0) - math.log(2000) < truth.sum() - 20
    evidence = lvm.evidence.importance(model, guide, x, num_particles=2000, seed=0)
    assert ((evidence.log_evidence - truth).abs() < 4.5 * evidence.standard_error).all()
    assert (evidence.total.log_evidence - truth.sum()).abs() < 4 * evidence.total.standard_error + 0.1


def test_reweighted_wake_sleep_weights_all_data_at_once():
    """Its value for the model is the importance-weighted bound, whose truth with two particles is a quadrature."""
    x = many_points()
    truth = (dist.Normal(MU, math.sqrt(2.0)).log_prob(x) + wide_gap(2)).sum()
    model, guide = lvm.bind(toy_model, wide, x)
    wake = ReweightedWakeSleep(num_particles=2, max_plate_nesting=1)
    theirs, error = mean_and_error(lambda: -wake.loss(model, guide, x)[0], 100)
    ours, our_error = mean_and_error(lambda: -lvm.objectives.IWELBO(2).loss(model, guide, x), 100)
    assert theirs < truth - 10 * error
    assert (ours - truth).abs() < 4 * our_error
