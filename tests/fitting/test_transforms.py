"""What training rows go through before the programs see them, anew at each step."""

import sys

import pyro
import pyro.distributions as dist
import pytest
import torch
from fitting.pairs import X, fit, guide, model
from fitting.test_capture import assert_same, vae
from torch.utils.data import DataLoader, Dataset, TensorDataset

import pyrolvm as lvm
from pyrolvm.programs import inspect_pair


def gray(num_rows=12):
    return torch.rand(num_rows, 6, generator=torch.Generator().manual_seed(0))


def bits(x):
    """x ~ Bernoulli(sigmoid(logits))."""
    logits = pyro.param("logits", torch.linspace(-1.0, 1.0, x.shape[-1]))
    with lvm.data_plate(x):
        pyro.sample("x", dist.Bernoulli(logits=logits).to_event(1), obs=x)


def log_probability(x):
    return torch.distributions.Bernoulli(logits=torch.linspace(-1.0, 1.0, 6)).log_prob(x).sum()


# ------------------------------------------------------------------------------------------- what programs see


@pytest.mark.parametrize("compile", [False, True])
def test_each_step_draws_its_own_bits(compile, interpreted):
    """With a learning rate of next to nothing each loss is minus the log-probability of the bits of that step."""
    losses = fit(
        bits, None, gray(), transform=torch.bernoulli, num_steps=6, learning_rate=1e-12, compile=compile
    ).losses
    torch.manual_seed(0)
    expected = [-log_probability(torch.bernoulli(gray())) for _ in range(6)]
    torch.testing.assert_close(losses, torch.stack(expected))
    assert len(set(losses.tolist())) == 6


def test_the_maximum_is_that_of_the_expected_bits():
    """The expected log-probability of the bits is largest where each bit is as likely as its mean gray level."""
    x = gray(300)
    options = {"num_steps": 600, "learning_rate": lambda step: 0.1 / (1 + step / 50)}
    fitted = fit(bits, None, x, transform=torch.bernoulli, **options)
    found = torch.sigmoid(fitted.model.parameters["logits"].detach())
    error = (x * (1 - x)).mean(0).sqrt() / 300**0.5  # of the mean of one draw of the bits; steps average many
    assert ((found - x.mean(0)).abs() < 2 * error).all()


@pytest.mark.parametrize("x", [torch.tensor([[0, 200]], dtype=torch.uint8), torch.tensor([[0.0, 200.0]])])
def test_gray_levels_that_are_no_probabilities(x):
    with pytest.raises(ValueError, match=r"'transform' raises .* in \[0, 1\]: pass gray levels as floats, x / 255 say"):
        fit(bits, None, x, transform=torch.bernoulli, num_steps=1)


def test_validation_sees_the_data_as_they_are():
    held_out = (gray(7) > 0.5).double()
    options = {"num_epochs": 1, "batch_size": 4, "learning_rate": 1e-12, "validation": held_out}
    fitted = fit(bits, None, gray(), transform=torch.bernoulli, **options)
    torch.testing.assert_close(fitted.validation[0][1], float(log_probability(held_out)))


def test_a_model_of_the_collection_is_asked_about_what_it_will_see():
    own, amortized = vae()
    assert fit(own, amortized, gray(), transform=torch.bernoulli, num_steps=2).num_steps == 2
    with pytest.raises(ValueError, match="Bernoulli"):
        fit(own, amortized, gray(), num_steps=2)
    with pytest.raises(ValueError, match="Bernoulli"):
        fit(own, amortized, (gray() > 0.5).double(), transform=lambda x: x / 2, num_steps=2)


def test_the_structure_is_that_of_what_the_programs_see(monkeypatch):
    seen = []

    def noted(model, guide, args, *rest):
        seen.append(args)
        return inspect_pair(model, guide, args, *rest)

    monkeypatch.setattr(sys.modules["pyrolvm.fitting.fit"], "inspect_pair", noted)
    fit(bits, None, gray(), transform=lambda x: torch.bernoulli(x)[:, :4], num_steps=1, batch_size=5)
    ((x,),) = seen
    assert x.shape == (5, 4)
    assert ((x == 0) | (x == 1)).all()


def test_the_identity_changes_nothing():
    plain = fit(model, guide, X, num_steps=6, batch_size=5)
    assert torch.equal(fit(model, guide, X, num_steps=6, batch_size=5, transform=lambda x: x).losses, plain.losses)


def test_the_caller_s_data_and_generators_are_left_alone():
    x = gray()
    kept, state = x.clone(), torch.get_rng_state()
    fit(bits, None, x, transform=torch.bernoulli, num_steps=3, batch_size=4)
    assert torch.equal(x, kept)
    assert torch.equal(torch.get_rng_state(), state)


def test_a_guide_that_settles_sees_what_the_steps_saw():
    def mean(x):
        loc = pyro.sample("loc", dist.Normal(torch.zeros(()), 10.0))
        with lvm.data_plate(x):
            pyro.sample("x", dist.Normal(loc, 1.0), obs=x)

    laplace = lvm.guides.Laplace(mean)
    fitted = fit(mean, laplace, X, transform=lambda x: x + 5, num_steps=600, learning_rate=0.05)
    precision = 1 / 100 + len(X)
    draws = fitted.sample(4000, X, seed=0)["loc"]
    error = (1 / precision / 4000) ** 0.5
    assert (draws.mean() - (X + 5).sum() / precision).abs() < 4 * error


# ------------------------------------------------------------------------------------------- the same answers


class Items(Dataset):
    def __len__(self):
        return 12

    def __getitem__(self, row):
        return gray()[row]


KINDS = {
    "all rows": (gray, None),
    "minibatches": (gray, 5),
    "loader": (lambda: DataLoader(TensorDataset(gray()), batch_size=4, shuffle=True), None),
    "items": (Items, 4),
}


@pytest.mark.parametrize("kind", KINDS)
def test_eager_and_captured_fits_are_the_same(kind, interpreted):
    make, size = KINDS[kind]
    options = {"num_steps": 14, "batch_size": size, "transform": torch.bernoulli}
    fits = [fit(*vae(), make(), compile=c, **options) for c in (False, True)]
    assert_same(fits[1], fits[0])


def test_tuples_go_through_together(interpreted):
    weights = torch.linspace(0.0, 2.0, 12)

    def noisy(x, w):
        return x + 0.1 * torch.randn_like(x), w

    def weighted(x, w):
        loc = pyro.param("loc", torch.zeros(6))
        with lvm.data_plate(x):
            pyro.sample("x", dist.Normal(loc, 1.0 + w.unsqueeze(-1)).to_event(1), obs=x)

    options = {"num_steps": 14, "batch_size": 5, "transform": noisy}
    fits = [fit(weighted, None, (gray(), weights), compile=c, **options) for c in (False, True)]
    assert_same(fits[1], fits[0])


def test_what_a_transform_reads_is_seen_to_change(interpreted):
    class Blurred:
        width = 0.1

        def __call__(self, x):
            return x + self.width * torch.randn_like(x)

    blurred = Blurred()

    def schedule(step):
        blurred.width = step / 100
        return 0.01

    with pytest.raises(ValueError, match="read the attribute 'width', which changes between steps"):
        fit(model, guide, X, transform=blurred.__call__, num_steps=60, learning_rate=schedule, compile=True)


def test_a_transform_that_draws_elsewhere_runs_eagerly(interpreted):
    import numpy as np

    def jitter(x):
        return x + np.random.normal()

    with pytest.raises(ValueError, match="do different things with the same noise"):
        fit(model, guide, X, transform=jitter, num_steps=20, compile=True)


@pytest.mark.slow
def test_compiled_steps_draw_the_bits_of_eager_ones():
    torch.set_default_dtype(torch.float32)
    options = {"num_steps": 30, "batch_size": 8, "transform": torch.bernoulli}
    fits = [fit(*vae(), gray(40), compile=c, **options) for c in (False, True)]
    assert fits[1].execution.startswith("compiled in ")
    torch.testing.assert_close(fits[1].losses, fits[0].losses, rtol=1e-5, atol=1e-5)


# ------------------------------------------------------------------------------------------- what goes wrong


def test_rows_that_pyro_s_checks_refuse_are_found_ahead(interpreted):
    """Compiled steps make no checks: a transform's bad rows are come upon by eager ones."""

    def halved(x):
        return torch.where(x > 3.4, 0.5, (x > 0).double())

    def coin(x):
        logit = pyro.param("logit", torch.tensor(0.0))
        with lvm.data_plate(x):
            pyro.sample("x", dist.Bernoulli(logits=logit), obs=x)

    said = []
    for c in (False, True):
        with pytest.raises(ValueError, match="site 'x'.*\n.*to be within the support") as error:
            fit(coin, None, X, transform=halved, num_epochs=2, batch_size=1, compile=c)
        said.append(str(error.value))
    assert said[0] == said[1]


@pytest.mark.parametrize("compile", [False, True])
def test_a_transform_that_gives_nan_is_named_by_its_site(compile, interpreted):
    def late(x):
        return torch.where(torch.rand(()) < 0.02, torch.nan, x)

    with pytest.raises(ValueError, match=r"^at step \d+ .*site 'z' of the guide"):
        fit(model, guide, X, transform=late, num_steps=2000, compile=compile)


@pytest.mark.parametrize(
    ("transform", "error", "message"),
    [
        ("bernoulli", TypeError, "'transform' must be a function of a batch's tensors, or None; got 'bernoulli'"),
        (lambda x: x.numpy(), TypeError, "'transform' must give a tensor, or a tuple of tensors; got a ndarray"),
        (lambda x: (x, None), TypeError, "'transform' must give a tensor, or a tuple of tensors; got a NoneType"),
        (lambda x: (), TypeError, "'transform' must give a tensor, or a tuple of tensors; got none"),
        (lambda x: x[1:], ValueError, r"'transform' must keep the batch's 4 rows, .* got shapes \[\(3,\)\]"),
        (
            lambda x: (x, x.sum()),
            ValueError,
            r"'transform' must keep the batch's 4 rows, .* got shapes \[\(4,\), \(\)\]",
        ),
        (
            lambda x: x.add_(1.0),
            ValueError,
            "'transform' must leave its arguments as they are; it changes one in place",
        ),
        (lambda x, y: x, ValueError, r"'transform' raises TypeError: .*missing.* with tensors of shapes \[\(4,\)\]"),
        (torch.bernoulli, ValueError, r"'transform' raises RuntimeError: .*It is called as transform\(\*tensors\)"),
    ],
)
def test_what_is_refused(transform, error, message):
    kept = X.clone()
    with pytest.raises(error, match=message):
        fit(model, guide, X, transform=transform, num_steps=2, batch_size=4)
    assert torch.equal(X, kept)


def test_one_that_takes_no_other_number_of_rows():
    """Data in memory are checked as a whole."""
    levels = torch.full((4,), 0.5)
    with pytest.raises(ValueError, match=r"'transform' raises RuntimeError: .*with tensors of shapes \[\(12,\)\]"):
        fit(model, guide, X, transform=lambda x: x + levels, num_steps=2, batch_size=4)


def test_no_data_to_transform():
    def alone():
        pyro.sample("x", dist.Normal(pyro.param("loc", torch.tensor(0.0)), 1.0), obs=torch.tensor(1.0))

    with pytest.raises(ValueError, match="'transform' needs data; got data=None"):
        fit(alone, None, transform=torch.bernoulli, num_steps=2)
    with pytest.raises(ValueError, match="'seed' must not be negative"):
        fit(model, guide, X, transform=torch.bernoulli, num_steps=2, seed=-1)
