"""Laws of the mixtures with both steps of EM in closed form: to test another, add a row."""

import copy
import pickle
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyro
import pytest
import torch
from pyro import poutine
from pyro.infer import SVI, TraceEnum_ELBO
from torch.utils._python_dispatch import TorchDispatchMode

import pyrolvm as lvm
from pyrolvm.models import BernoulliMixture, GaussianMixture, MixtureOfFactorAnalyzers, PoissonMixture
from pyrolvm.programs import Empty, minibatch


def iris():
    return torch.tensor(lvm.datasets.iris().x, dtype=torch.float64)


def wine():
    x = torch.tensor(lvm.datasets.wine().x, dtype=torch.float64)
    return (x - x.mean(0)) / x.std(0, correction=0)


def counts():
    return torch.tensor(lvm.datasets.digits().x[:200, 18:38], dtype=torch.float64)


def bits():
    return (counts() >= 8).double()


@dataclass(frozen=True)
class Row:
    """A mixture.

    Attributes:
        make: Builds it from K and D, so that EM never decreases the log-likelihood.
        data: Data that it fits.
        svi: Iterations of EM after which SVI starts on the same hill, and the rate of its first step.
    """

    make: Callable[[int, int], Any]
    data: Callable[[], torch.Tensor]
    svi: tuple[int, float]


MIXTURES = {
    "Gaussian": Row(lambda k, d: GaussianMixture(k, d, regularization=0.0), iris, (10, 0.05)),
    "Bernoulli": Row(BernoulliMixture, bits, (0, 0.3)),
    "Poisson": Row(PoissonMixture, counts, (2, 0.2)),
    "factor analyzers": Row(lambda k, d: MixtureOfFactorAnalyzers(k, 1, d, regularization=0.0), wine, (10, 0.05)),
}
EACH = pytest.mark.parametrize("row", list(MIXTURES.values()), ids=list(MIXTURES))


def built(row, num_components=3):
    """A mixture with arbitrary parameters, and its data."""
    x = row.data()
    torch.manual_seed(1)
    model = row.make(num_components, x.shape[1]).initialize(x, seed=0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model, x


def fit(model, x, **options):
    return lvm.fit_em(model, x, **{"seed": 0, "progress": False, **options})


def total(model, x):
    return model.log_density(x).sum().item()


# ------------------------------------------------------------------------------------------- programs


@EACH
@pytest.mark.parametrize("options", [{}, {"num_particles": 3, "vectorize_particles": True}], ids=["one", "particles"])
def test_the_enumerated_program_has_the_density(row, options):
    model, x = built(row)
    loss = TraceEnum_ELBO(max_plate_nesting=1, **options).loss(model, Empty(), x)
    assert loss == pytest.approx(-total(model, x), rel=1e-12)


@EACH
def test_the_density_is_the_sum_over_components(row):
    """One by one; that each component has the right density is for its own tests to say."""
    model, x = built(row)
    parts = [model.component(torch.tensor(k)).log_prob(x) + model.weights[k].log() for k in range(3)]
    joint = torch.stack(parts, -1).detach()
    assert model.weights.sum().item() == pytest.approx(1.0)
    density = joint.exp().sum(-1).log()
    torch.testing.assert_close(model.log_density(x).detach(), density)
    expected = (joint - density.unsqueeze(-1)).exp()
    torch.testing.assert_close(model.responsibilities(x).detach(), expected)
    torch.testing.assert_close(model.posterior(x).probs.detach(), expected)


@EACH
def test_minibatches_are_scaled_to_the_data(row):
    model, x = built(row)
    rows = torch.tensor([3, 1, 7])
    with minibatch(len(x), rows):
        loss = TraceEnum_ELBO(max_plate_nesting=1).loss(model, Empty(), x[rows])
    assert loss == pytest.approx(-len(x) / 3 * total(model, x[rows]), rel=1e-12)


@EACH
def test_pyros_svi_trains_every_parameter(row):
    model, x = built(row)
    before = [p.detach().clone() for p in model.parameters()]
    svi = SVI(model, Empty(), pyro.optim.Adam({"lr": 0.02}), TraceEnum_ELBO(max_plate_nesting=1))
    losses = [svi.step(x) for _ in range(20)]
    assert losses[-1] < losses[0]
    assert all((p != q).any() for p, q in zip(model.parameters(), before, strict=True))


@EACH
def test_the_program_reads_no_value(row):
    class NoItem(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            assert func is not torch.ops.aten._local_scalar_dense.default
            return func(*args, **(kwargs or {}))

    model, x = built(row)
    with pyro.validation_enabled(False), NoItem():
        poutine.trace(model).get_trace(x).log_prob_sum().backward()


@EACH
def test_draws_have_the_moments(row):
    """Of each component, and the program draws as `sample` does; variances through the kurtosis of the draws."""
    model, x = built(row, 2)
    n = 20_000
    drawn, z = model.sample(n, seed=0)
    weights = model.weights.detach()
    shares = z.bincount(minlength=2) / n
    assert ((shares - weights).abs() < 4 * (weights * (1 - weights) / n).sqrt()).all()
    for k in range(2):
        rows, component = drawn[z == k], model.component(torch.tensor(k))
        mean, variance = component.mean.detach(), component.variance.detach()
        deviations = (rows - mean).square()
        assert ((rows.mean(0) - mean).abs() <= 4.5 * (variance / len(rows)).sqrt()).all()
        error = (deviations.var(0) / len(rows)).sqrt()
        common = variance * len(rows) > 100  # rare counts have no error to go by
        assert ((deviations.mean(0) - variance).abs() <= 5 * error)[common].all()
        assert common.sum() > 3
    torch.manual_seed(0)
    by_program = model(size=n).detach()
    error = (drawn.var(0) / n + by_program.var(0) / n).sqrt()
    assert ((drawn.mean(0) - by_program.mean(0)).abs() <= 4.5 * error).all()


# ------------------------------------------------------------------------------------------- EM


@EACH
def test_em_never_decreases_the_log_likelihood(row):
    model, x = built(row, 4)
    start = -total(model, x)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # not converged
        losses = fit(model, x, num_restarts=0, num_iterations=40, tolerance=0.0).losses
    losses = torch.cat([torch.tensor([start]), losses])
    assert (losses.diff() < 1e-11 * losses[:-1].abs()).all()
    assert losses[-1] < losses[0] - 1
    assert -losses[-1].item() == pytest.approx(total(model, x), rel=1e-12)


@EACH
def test_gradients_vanish_where_em_ends(row):
    model, x = row.make(2, row.data().shape[1]), row.data()
    fit(model, x, num_restarts=1, tolerance=1e-14, num_iterations=20_000)
    model.log_density(x).sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad.abs().max() < 1e-3, name


@EACH
def test_svi_and_em_reach_one_maximum(row):
    x, (warmup, rate) = row.data(), row.svi
    by_em = row.make(3, x.shape[1]).initialize(x, seed=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # not converged
        if warmup:
            fit(by_em, x, num_restarts=0, num_iterations=warmup)
    by_svi, start = copy.deepcopy(by_em), total(by_em, x)
    fit(by_em, x, num_restarts=0, tolerance=1e-10, num_iterations=5000)
    options = {"learning_rate": lambda step: rate * 0.01 ** (step / 250), "seed": 0, "progress": False}
    lvm.fit(by_svi, None, x, num_steps=250, compile=False, **options)
    assert total(by_em, x) > start + 0.6
    assert total(by_svi, x) == pytest.approx(total(by_em, x), abs=0.3)


@EACH
def test_svi_in_minibatches(row):
    x = row.data()
    model = row.make(3, x.shape[1]).initialize(x, seed=0)
    before = total(model, x)
    options = {"batch_size": 50, "learning_rate": 0.005, "seed": 0, "progress": False, "compile": False}
    lvm.fit(model, None, x, num_epochs=30, **options)
    assert total(model, x) > before + 3


@EACH
def test_svi_goes_on_where_em_ended(row):
    """Probabilities of 0, if any, stay there, and no gradient is NaN."""
    x = row.data()
    model = row.make(2, x.shape[1])
    ended = fit(model, x, num_restarts=1).losses[-1].item()
    options = {"learning_rate": 1e-4, "seed": 0, "progress": False, "compile": False}
    lvm.fit(model, None, x, num_steps=20, **options)
    assert -total(model, x) == pytest.approx(ended, abs=0.2)


@EACH
def test_captured_steps_are_the_eager_ones(row, interpreted):
    x = row.data()
    fits = []
    for compile in (False, True):
        model = row.make(2, x.shape[1]).initialize(x, seed=0)
        fits.append(lvm.fit(model, None, x, num_steps=8, batch_size=50, compile=compile, seed=3, progress=False))
    assert fits[1].execution.startswith("compiled")
    torch.testing.assert_close(fits[1].losses, fits[0].losses)
    torch.testing.assert_close(dict(fits[1].model.state_dict()), dict(fits[0].model.state_dict()))


@EACH
def test_statistics_of_chunks_add_up(row):
    model, x = built(row)
    parameters = model.get_parameters()
    whole, parts = model.expect(parameters, x), [model.expect(parameters, rows) for rows in x.split(17)]
    torch.testing.assert_close(torch.cat([density for density, _ in parts], -1), whole[0])
    torch.testing.assert_close(whole[0][0], model.log_density(x).detach())
    for sums, expected in zip(zip(*(statistics for _, statistics in parts), strict=True), whole[1], strict=True):
        torch.testing.assert_close(sum(sums), expected)


@EACH
def test_weights_of_rows_are_repeated_rows(row):
    model, x = built(row)
    other = copy.deepcopy(model)
    weights = torch.randint(4, (len(x),), generator=torch.Generator().manual_seed(0)).double()
    options = {"num_restarts": 0, "num_iterations": 5, "tolerance": 0.0}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # not converged
        weighted = fit(model, x, sample_weights=weights, batch_size=37, **options)
        repeated = fit(other, x.repeat_interleave(weights.long(), 0), **options)
    torch.testing.assert_close(weighted.losses, repeated.losses, rtol=1e-10, atol=0)
    torch.testing.assert_close(dict(model.state_dict()), dict(other.state_dict()), rtol=1e-7, atol=1e-7)


@EACH
def test_maximize_is_an_iteration_of_em(row):
    model, x = built(row)
    other = copy.deepcopy(model)
    model.maximize(x, model.responsibilities(x).detach().numpy())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # not converged
        fit(other, x, num_restarts=0, num_iterations=1)
    torch.testing.assert_close(dict(model.state_dict()), dict(other.state_dict()), rtol=1e-9, atol=1e-9)


@EACH
def test_an_empty_component_keeps_its_place(row):
    model, x = built(row)
    before = copy.deepcopy(model)
    responsibilities = torch.full((len(x), 3), 0.5)
    responsibilities[:, 1] = 0.0
    with pytest.warns(UserWarning, match=r"components \[1\] explain no row: their parameters were kept"):
        model.maximize(x, responsibilities)
    torch.testing.assert_close(model.component(torch.tensor(1)).mean, before.component(torch.tensor(1)).mean)
    if not isinstance(model, MixtureOfFactorAnalyzers):  # whose means, given the factors, are not those of the rows
        torch.testing.assert_close(model.component(torch.tensor(0)).mean.detach(), x.mean(0))
    assert model.weights[1] < 1e-30
    assert model.degenerate == (1,)
    assert model.log_density(x).isfinite().all()


@EACH
def test_starts_are_those_of_their_seeds(row):
    x = row.data()
    model = row.make(3, x.shape[1])
    state = torch.get_rng_state()
    together = model.starts(x, [4, 0, 4])
    for i, seed in enumerate([4, 0]):
        alone = copy.deepcopy(model).initialize(x, seed=seed)
        model.set_parameters(type(together)(*(value[[i]] for value in together)))
        torch.testing.assert_close(dict(model.state_dict()), dict(alone.state_dict()), rtol=1e-12, atol=1e-12)
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(value[0], value[2]) for value in together)
    assert any((value[0] != value[1]).any() for value in together)
    model.initialize(x, seed=None)
    assert not torch.equal(state, torch.get_rng_state())


@EACH
def test_runs_at_once_are_those_one_by_one(row):
    x = row.data()
    ends = [fit(row.make(4, x.shape[1]), x, num_restarts=1, seed=seed).losses[-1].item() for seed in range(3)]
    best = fit(row.make(4, x.shape[1]), x, num_restarts=3).losses[-1].item()
    assert best == pytest.approx(min(ends), abs=2e-3)
    assert max(ends) > min(ends) + 0.1


@EACH
def test_a_memory_map_gives_what_an_array_gives(row, tmp_path):
    x = row.data()
    np.save(tmp_path / "x.npy", x.numpy())
    data = np.load(tmp_path / "x.npy", mmap_mode="r")
    expected = fit(row.make(2, x.shape[1]), x, num_restarts=2)
    result = fit(row.make(2, x.shape[1]), data, num_restarts=2, batch_size=60)
    torch.testing.assert_close(result.losses[-1], expected.losses[-1], rtol=1e-8, atol=0)


# ------------------------------------------------------------------------------------------- the rest


@EACH
def test_what_was_simulated_is_recovered(row):
    """A fit to data from a mixture is likelier than it by less than a chi-squared of its number of parameters."""
    truth, _ = built(row, 2)
    x, z = truth.sample(4000, seed=0)
    model = row.make(2, x.shape[1])
    fit(model, x, num_restarts=2)
    gained = total(model, x) - total(truth, x)
    freedom = truth.num_parameters
    assert -1e-3 < gained < (freedom + 5 * (2 * freedom) ** 0.5) / 2
    model.align(x, z)
    assert ((model.weights - truth.weights).abs() < 5 * (0.25 / 4000) ** 0.5 + 0.02).all()
    for k in range(2):
        found, true = (m.component(torch.tensor(k)) for m in (model, truth))
        error = (true.variance / (4000 * truth.weights[k])).sqrt()
        assert ((found.mean - true.mean).abs() < 6 * error + 1e-12).all()


@EACH
def test_in_float32(row):
    model, x = built(row)
    expected = model.log_density(x)
    torch.testing.assert_close(model.float().log_density(x).double(), expected, rtol=1e-4, atol=1e-3)
    best = fit(row.make(2, x.shape[1]), x, num_restarts=1)
    single = fit(row.make(2, x.shape[1]).float(), x.float(), num_restarts=1)
    assert single.model.log_density(x).dtype == torch.float32
    assert single.losses[-1].item() == pytest.approx(best.losses[-1].item(), rel=1e-4)


@EACH
def test_copies_and_files(row, tmp_path):
    model, x = built(row)
    expected = model.log_density(x)
    result = fit(model, x, num_restarts=0)
    assert result.losses[-1] < -expected.sum()
    result.save(tmp_path / "fit.safetensors")
    other = row.make(3, x.shape[1])
    lvm.load(tmp_path / "fit.safetensors", other)
    for same in (other, copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        torch.testing.assert_close(same.log_density(x), model.log_density(x))
    assert "3" in repr(model)


@EACH
def test_one_component_one_row_repeated_rows(row):
    x = row.data()
    once, twice = (fit(row.make(1, x.shape[1]), data, tolerance=1e-10) for data in (x, torch.cat([x, x])))
    torch.testing.assert_close(twice.losses[-1], 2 * once.losses[-1], rtol=1e-6, atol=0)
    torch.testing.assert_close(once.model.component(torch.tensor(0)).mean.detach(), x.mean(0), rtol=1e-5, atol=1e-5)
    with pytest.raises(ValueError, match="at least as many distinct rows as components, 2; got 1"):
        fit(row.make(2, x.shape[1]), x[:1].expand(5, -1))
    with pytest.raises(ValueError, match="at least as many rows as components, 2; got 1"):
        fit(row.make(2, x.shape[1]), x[:1])


@EACH
def test_criteria(row):
    model, x = built(row)
    assert model.aic(x) == pytest.approx(2 * model.num_parameters - 2 * total(model, x))
    assert model.bic(x) == pytest.approx(np.log(len(x)) * model.num_parameters - 2 * total(model, x))


@EACH
def test_refused(row):
    x = row.data()
    width = x.shape[1]
    model = row.make(3, width)
    for make, error, match in (
        (lambda: row.make(0, width), ValueError, "'num_components' must be at least 1; got 0"),
        (lambda: row.make(1.5, width), TypeError, r"'num_components' must be an integer; got 1\.5"),
        (lambda: row.make(2, 3.5), TypeError, r"'num_features' must be an integer; got 3\.5"),
        (lambda: model.sample(0), ValueError, "'n' must be at least 1; got 0"),
        (lambda: model(size=0), ValueError, "'size' must be at least 1; got 0"),
        (lambda: model(x[:, 1:]), ValueError, rf"'x' must have shape \(N, {width}\); got"),
        (lambda: model.log_density(x[0]), ValueError, r"One datum is x\[None, :\]"),
        (lambda: model.log_density(x[:0]), ValueError, "'x' must have at least one row"),
        (lambda: model.check_data([["a"] * width]), TypeError, "'x' must be a tensor or an array of numbers"),
        (lambda: model.check_data(torch.where(x == x[2], torch.nan, x)), ValueError, "'x' must be finite; row"),
        (lambda: model.maximize(x, torch.ones(len(x), 2)), ValueError, "'responsibilities' must have shape"),
        (lambda: model.maximize(x, torch.ones(len(x), 3)), ValueError, "must be probabilities that sum to 1; row 0"),
        (lambda: model.initialize(x, seed=-1), ValueError, "'seed' must not be negative"),
    ):
        with pytest.raises(error, match=match):
            make()


@pytest.mark.gpu
@EACH
def test_on_the_device(row):
    model, x = built(row)
    expected = model.log_density(x)
    model = model.to("cuda")
    torch.testing.assert_close(model.log_density(x).cpu(), expected)
    loss = TraceEnum_ELBO(max_plate_nesting=1).loss(model, Empty(), x.cuda())
    assert loss == pytest.approx(-expected.sum().item(), rel=1e-10)
    fit(model, x, num_restarts=2, batch_size=70)
    model.maximize(x, model.responsibilities(x))
    assert all(parameter.is_cuda for parameter in model.parameters())
    assert model.sample(4, seed=0)[0].is_cuda
    assert model(size=4).is_cuda
