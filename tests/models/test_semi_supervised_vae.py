"""The semi-supervised VAE, held to mixtures of Gaussians, to enumeration by hand, and to a logistic regression."""

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import SVI, Trace_ELBO, TraceEnum_ELBO
from sklearn.linear_model import LogisticRegression

import pyrolvm as lvm
from pyrolvm.likelihoods import Gaussian
from pyrolvm.models import SemiSupervisedVAE
from pyrolvm.nn import MLP
from pyrolvm.programs import data_plate

WEIGHTS = torch.tensor([0.2, 0.3, 0.5], dtype=torch.float64)
LABELS = torch.tensor([-1, 0, 1, 2, -1, -1, 2, 0])
EVERY = torch.arange(3)


def linear(num_latents=1, scale=0.7):
    """x | y, z ~ N(b + W z + shift_y, scale^2 I), so that x | y ~ N(b + shift_y, W W' + scale^2 I)."""
    torch.manual_seed(0)
    decoder = torch.nn.Linear(num_latents + 3, 4)
    with torch.no_grad():
        decoder.weight.mul_(3)
    model = SemiSupervisedVAE(3, num_latents, decoder, Gaussian(scale))
    with torch.no_grad():
        model.weights = WEIGHTS
    return model


@torch.no_grad()
def components(model, x):
    """log of weights_y p(x | y), shape (N, K)."""
    weight, shifts = model.decoder.weight.split([model.num_latents, 3], -1)
    covariance = weight @ weight.mT + model.likelihood.scale**2 * torch.eye(4)
    return dist.MultivariateNormal(model.decoder.bias + shifts.mT, covariance).log_prob(x[:, None]) + WEIGHTS.log()


def allowed(labels):
    """Which classes a label leaves, shape (N, K)."""
    return (labels[:, None] < 0) | (labels[:, None] == EVERY)


def networks(likelihood=None):
    return SemiSupervisedVAE(3, 2, MLP(5, [8], 6), likelihood)


def bits(num_rows=40):
    return (torch.rand(num_rows, 6, generator=torch.Generator().manual_seed(0)) > 0.5).double()


class Wide(torch.nn.Module):
    """A guide that covers z more widely than the prior."""

    def forward(self, x, labels=None):
        with data_plate(x):
            pyro.sample("z", dist.Normal(torch.zeros(2), 1.3).to_event(1))


@pytest.mark.parametrize("labels", [None, LABELS, LABELS.clamp(min=0)])
def test_quadrature_finds_the_mixture_of_gaussians(labels):
    """log p(x, label): the sum over the classes that the label leaves."""
    model = linear()
    x = model.sample(8, seed=1)[0]
    left = allowed(torch.full((8,), -1) if labels is None else labels)
    truth = components(model, x).masked_fill(~left, -torch.inf).logsumexp(-1)
    found = lvm.evidence.exact(model, x) if labels is None else lvm.evidence.exact(model, x, labels)
    torch.testing.assert_close(found.log_evidence, truth, atol=1e-5, rtol=0)


@pytest.mark.filterwarnings("ignore::pyrolvm.evidence.evidence.DoubtfulEvidence")
def test_importance_sampling_and_the_classes_of_the_data():
    model = linear(num_latents=2)
    x, _, y = model.sample(8, seed=1)
    truth = components(model, x).masked_fill(~allowed(LABELS), -torch.inf)
    found = lvm.evidence.importance(model, Wide(), x, LABELS, num_particles=20_000, seed=0)
    assert ((found.log_evidence - truth.logsumexp(-1)).abs() < 4.5 * found.standard_error).all()
    probabilities = lvm.marginals(model, Wide(), x, LABELS, num_particles=20_000, seed=0)["y"].probs
    torch.testing.assert_close(probabilities, truth.softmax(-1), atol=0.02, rtol=0)
    known = LABELS >= 0
    assert torch.equal(probabilities[known], torch.nn.functional.one_hot(LABELS[known], 3).double())
    assert (probabilities[~known].max(-1).values < 1).all()


@pytest.mark.parametrize("labels", [None, LABELS])
def test_weights_are_sums_over_the_classes(labels):
    """At each draw of z: log N(z; 0, I) + log sum_y weights_y p(x | y, z) - log q(z), term by term."""
    model, x = networks(), bits(8)
    with torch.no_grad():
        model.weights = WEIGHTS
    args = (x,) if labels is None else (x, labels)
    weights = lvm.log_weights(model, Wide(), *args, num_particles=5, seed=0)
    z = weights.latents["z"]
    terms = []
    for k in range(3):
        logits = model.decoder(torch.cat([z, torch.eye(3)[k].expand(5, 8, 3)], -1))
        term = WEIGHTS[k].log() + (x * logits - torch.nn.functional.softplus(logits)).sum(-1)
        given = torch.full((8,), -1) if labels is None else labels
        terms.append(term.masked_fill((given >= 0) & (given != k), -torch.inf))
    expected = torch.stack(terms).logsumexp(0)
    expected = expected + (dist.Normal(0, 1).log_prob(z) - dist.Normal(0, 1.3).log_prob(z)).sum(-1)
    torch.testing.assert_close(weights.local, expected.detach())


@pytest.mark.parametrize("theirs", [True, False])
def test_a_known_label_leaves_the_gradient_of_its_class(theirs):
    """No NaN from the classes that are ruled out, and nothing of them: as where the class is a given."""
    model, x, labels = networks(), bits(8), LABELS.clamp(min=0)

    class Known(torch.nn.Module):
        def forward(self, x, labels):
            with data_plate(x):
                z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
                one_hot = torch.nn.functional.one_hot(labels, 3).double()
                pyro.sample("y", dist.Categorical(model.weights), obs=labels)
                pyro.sample("x", dist.Bernoulli(logits=model.decoder(torch.cat([z, one_hot], -1))).to_event(1), obs=x)

    leaves = list(model.parameters())
    gradients = []
    for program, pyros in ((model, TraceEnum_ELBO), (Known(), Trace_ELBO)):
        objective = pyros(max_plate_nesting=1) if theirs else lvm.objectives.ELBO()
        objective.loss(program, Wide(), x, labels)  # what is looked at once is looked at here
        torch.manual_seed(0)
        gradients.append(torch.autograd.grad(objective.differentiable_loss(program, Wide(), x, labels), leaves))
    torch.testing.assert_close(*gradients)


def test_samples_have_the_moments_of_each_class():
    model, n = linear(2), 60_000
    x, z, y = model.sample(n, seed=0)
    assert ((torch.bincount(y) / n - WEIGHTS).abs() < 4 * (WEIGHTS * (1 - WEIGHTS) / n).sqrt()).all()
    assert (z.mean(0).abs() < 4 / n**0.5).all()
    weight, shifts = model.decoder.weight.detach().split([2, 3], -1)
    covariance = weight @ weight.mT + 0.49 * torch.eye(4)
    for k in range(3):
        own = x[y == k]
        error = (covariance.diagonal() / len(own)).sqrt()
        assert ((own.mean(0) - model.decoder.bias.detach() - shifts[:, k]).abs() < 4 * error).all()
    drawn = model(size=n).detach()
    mean = model.decoder.bias.detach() + shifts @ WEIGHTS
    between = (shifts - (shifts @ WEIGHTS)[:, None]) * WEIGHTS.sqrt()
    spread = (covariance + between @ between.mT).diagonal()
    assert ((drawn.mean(0) - mean).abs() < 4 * (spread / n).sqrt()).all()


def test_simulated_labels_are_the_classes():
    """The label is an observed site like any other, so data can be simulated with their labels."""
    model = networks()
    simulation = lvm.programs.simulate(model, (bits(50), torch.full((50,), -1)), {})
    assert torch.equal(simulation.args[1], simulation.latents["y"])
    assert len(simulation.args[1].unique()) == 3


def test_decode_is_the_mean():
    model, z = networks(), torch.randn(4, 2)
    for k in range(3):
        expected = model.decoder(torch.cat([z, torch.eye(3)[k].expand(4, 3)], -1)).sigmoid()
        torch.testing.assert_close(model.decode(z, torch.tensor(k)), expected)
        torch.testing.assert_close(model.decode(z[:, None], EVERY)[:, k], expected)
    assert model.decode(np.zeros((3, 2)), np.arange(3)).shape == (3, 6)


def test_pyros_svi_trains_all_of_it():
    x, labels = bits(), torch.arange(40) % 4 - 1
    model = networks()
    guide = lvm.guides.Amortized(model, MLP(6, [8], 8))
    report = lvm.check(model, guide, x, labels)
    assert report.ok, str(report)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    elbo = TraceEnum_ELBO(num_particles=4, vectorize_particles=True, max_plate_nesting=1)
    svi = SVI(model, guide, pyro.optim.Adam({"lr": 1e-2}), elbo)
    losses = [svi.step(x, labels) for _ in range(40)]
    assert np.mean(losses[-5:]) < np.mean(losses[:5])
    assert all((p != before[name]).any() for name, p in model.named_parameters())


def test_captured_steps_are_the_eager_ones(interpreted):
    """Minibatches of the labels follow those of the data."""
    x, labels, found = bits(), torch.arange(40) % 4 - 1, []
    for compile in (False, True):
        torch.manual_seed(1)
        model = networks()
        guide = lvm.guides.Amortized(model, MLP(6, [8], 8))
        options = {"num_steps": 3, "batch_size": 7, "compile": compile, "seed": 0, "progress": False}
        result = lvm.fit(model, guide, (x, labels), objective=lvm.objectives.IWELBO(3), **options)
        found.append((result, model.state_dict()))
    (eager, expected), (captured, parameters) = found
    assert captured.execution.startswith("compiled")
    torch.testing.assert_close(captured.losses, eager.losses)
    torch.testing.assert_close(parameters, expected)


def test_frequencies_of_the_classes_are_learned():
    """All labels known: the maximum of the likelihood has the weights of the labels, whatever else."""
    labels = torch.tensor([0] * 24 + [1] * 12 + [2] * 4)
    model = networks()
    guide = lvm.guides.Amortized(model, MLP(6, [8], 8))
    rate = {"learning_rate": lambda step: 0.2 * 0.96**step}
    lvm.fit(model, guide, (bits(), labels), num_steps=120, seed=0, progress=False, compile=False, **rate)
    torch.testing.assert_close(model.weights.detach(), torch.tensor([0.6, 0.3, 0.1]), atol=0.01, rtol=0)


def test_float32_one_class_and_one_datum():
    model = networks().float()
    guide = lvm.guides.Amortized(model, MLP(6, [4], 4).float())
    args = bits(8).float(), LABELS.int()
    weights = lvm.log_weights(*lvm.bind(model, guide, *args), *args, num_particles=2)
    assert weights.local.dtype == torch.float32
    assert weights.local.isfinite().all()
    alone = SemiSupervisedVAE(1, 2, MLP(3, [4], 6))
    guide = lvm.guides.Amortized(alone, MLP(6, [4], 4))
    result = lvm.fit(alone, guide, (np.ones((1, 6)), np.zeros(1, int)), num_steps=3, seed=0, progress=False)
    assert torch.isfinite(result.losses).all()
    assert lvm.marginals(alone, guide, torch.ones(1, 6))["y"].probs == 1


@pytest.mark.parametrize(
    ("make", "error", "match"),
    [
        (lambda: SemiSupervisedVAE(0, 2, MLP(2, [], 6)), ValueError, "'num_classes' must be at least 1; got 0"),
        (lambda: SemiSupervisedVAE(3, 0, MLP(3, [], 6)), ValueError, "'num_latents' must be at least 1; got 0"),
        (
            lambda: SemiSupervisedVAE(3, 2, MLP(2, [], 6)),
            ValueError,
            r"'decoder' must map \(\.\.\., 5\) to .*; given shape \(2, 3, 5\) it fails:",
        ),
        (lambda: networks(Gaussian), TypeError, "'likelihood' must be an object of lvm.likelihoods"),
        (lambda: networks().sample(0), ValueError, "'n' must be at least 1; got 0"),
        (lambda: networks()(size=0), ValueError, "'size' must be at least 1; got 0"),
        (
            lambda: networks()(labels=LABELS),
            ValueError,
            r"'labels' must come with the data, 'x'\. To draw rows of a class, use decode\(z, y\)",
        ),
        (
            lambda: networks().decode(torch.zeros(5, 3), EVERY),
            ValueError,
            r"'z' must have shape \(\.\.\., 2\); got \(5, 3\)",
        ),
        (
            lambda: networks().decode(torch.zeros(5, 2), EVERY),
            ValueError,
            r"'z' and 'y' must have shapes \(\.\.\., 2\) and \(\.\.\.\); got \(5, 2\) and \(3,\)",
        ),
        (
            lambda: networks().decode(torch.zeros(3, 2), EVERY + 1),
            ValueError,
            r"'y' must hold labels in 0\.\.2; row 2 holds 3",
        ),
        (
            lambda: networks().decode(torch.zeros(3, 2), torch.ones(3)),
            TypeError,
            r"'y' must hold integer labels; got torch\.float64\. Use numbers in 0\.\.K-1",
        ),
        (
            lambda: networks().check_data(torch.full((5, 6), 0.5)),
            ValueError,
            "'x' must hold only 0 and 1 for likelihoods.Bernoulli",
        ),
    ],
)
def test_refusals(make, error, match):
    with pytest.raises(error, match=match):
        make()


@pytest.mark.parametrize(
    ("labels", "error", "match"),
    [
        (
            torch.tensor([0, 3]),
            ValueError,
            r"'labels' must hold labels in 0\.\.2, or -1 for an unknown one; row 1 holds 3",
        ),
        (torch.tensor([-2, 0]), ValueError, "row 0 holds -2"),
        (
            torch.tensor([0.0, 1.0], dtype=torch.float64),
            TypeError,
            r"'labels' must hold integer labels; got torch\.float64\. .* and -1 for an unknown one",
        ),
        (torch.tensor([[0], [1]]), ValueError, r"'labels' must hold a label for each row, shape \(2,\); got \(2, 1\)"),
    ],
)
def test_refused_labels(labels, error, match):
    """Before the first step; a program looks at shape and dtype itself."""
    model, x = networks(), bits(2)
    guide = lvm.guides.Amortized(model, MLP(6, [8], 8))
    with pytest.raises(error, match=match):
        lvm.fit(model, guide, (x, labels), num_steps=1, progress=False)
    if "row" not in match or "shape" in match:
        with pytest.raises(error, match=match):
            model(x, labels)


@pytest.mark.slow
def test_on_digits_it_beats_a_logistic_regression_on_the_same_labels():
    """Ten labels of each class, 1,697 images without. A start from the labeled ones alone gives y its meaning."""
    digits = lvm.datasets.digits()
    x, y = torch.tensor(digits.x >= 8).float(), torch.tensor(np.asarray(digits.labels)).long()
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    known = torch.cat([order[y[order] == k][:10] for k in range(10)])
    labels = torch.full_like(y, -1)
    labels[known] = y[known]
    with lvm.seeding.seeded(0):
        model = SemiSupervisedVAE(10, 2, MLP(12, [64], 64)).float()
        guide = lvm.guides.Amortized(model, MLP(64, [64], 64).float())
    options = {"seed": 0, "progress": False, "compile": False}
    lvm.fit(model, guide, (x[known], labels[known]), num_steps=300, learning_rate=5e-3, **options)
    rate = {"learning_rate": lambda step: 5e-3 * min(1.0, 2 * (1 - step / 800) + 0.02)}
    lvm.fit(model, guide, (x, labels), num_steps=800, batch_size=200, **rate, **options)
    rest = labels < 0
    probabilities = lvm.marginals(model, guide, x[rest], num_particles=50, seed=0)["y"].probs
    accuracy = (probabilities.argmax(-1) == y[rest]).double().mean()
    regression = LogisticRegression(max_iter=5000).fit(x[known], y[known]).score(x[rest], y[rest])
    standard_error = (accuracy * (1 - accuracy) / rest.sum()).sqrt()
    assert accuracy > regression + 2 * standard_error
