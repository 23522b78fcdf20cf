"""Weights of the divergence that change as a fit goes on."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from fitting.pairs import X, fit, guide, mean_model, model, posterior
from fitting.test_capture import assert_same, vae
from fitting.test_stopping import noise_to_overfit, regression

import pyrolvm as lvm
from pyrolvm.fitting import convergence, loop
from pyrolvm.objectives import ELBO, linear_warm_up


def still(x):
    """A guide whose two parts of the ELBO are in closed form: its draws are the posterior's, scaled."""
    scale = pyro.param("scale", torch.tensor(0.8))
    with lvm.data_plate(x):
        pyro.sample("z", dist.Normal(posterior(x).loc, scale))


def parts(x):
    """E log p(x | z) and KL(q || p) of `still`, summed over the data."""
    loc, variance = posterior(x).loc, torch.tensor(0.8) ** 2
    expected = dist.Normal(loc, 0.5**0.5).log_prob(x) - 0.5 * variance / 0.5
    return expected.sum(), torch.distributions.kl_divergence(dist.Normal(loc, 0.8), dist.Normal(0.0, 1.0)).sum()


def cycle(step):
    return (step % 4) / 2


@pytest.mark.parametrize("compile", [False, True])
@pytest.mark.parametrize("schedule", [linear_warm_up(7, start=0.3), cycle], ids=["warm-up", "cycle"])
def test_each_step_has_its_own_weight(compile, schedule, interpreted):
    """Steps too small to move anything: losses are those of one guide, at the weights of the schedule."""
    options = {"num_steps": 12, "learning_rate": 1e-12, "compile": compile}
    losses = fit(model, still, X, objective=ELBO(500, kl_weight=schedule), **options).losses
    likelihood, divergence = parts(X)
    expected = torch.stack([schedule(step) * divergence - likelihood for step in range(12)])
    z = dist.Normal(posterior(X).loc, 0.8).sample((500,))
    error = dist.Normal(z, 0.5**0.5).log_prob(X).sum(-1).std() / 500**0.5
    error += schedule(11) * dist.Normal(0.0, 1.0).log_prob(z).sum(-1).std() / 500**0.5
    assert ((losses - expected).abs() < 4 * error).all()
    assert (expected.max() - expected.min()) > 8 * error


@pytest.mark.parametrize("batch_size", [None, 5])
def test_eager_and_captured_fits_are_the_same(batch_size, interpreted):
    objective = ELBO(3, kl_weight=linear_warm_up(9))
    options = {"objective": objective, "num_steps": 14, "batch_size": batch_size}
    bits = (torch.rand(12, 6, generator=torch.Generator().manual_seed(0)) < 0.4).double()
    fits = [fit(*vae(), bits, compile=c, **options) for c in (False, True)]
    assert_same(fits[1], fits[0])
    plain = fit(*vae(), bits, compile=True, **{**options, "objective": ELBO(3)})
    assert (plain.losses - fits[1].losses).abs()[:9].min() > 1e-3


def test_latents_outside_of_the_plate_in_float32(interpreted):
    """Terms without dimensions keep their type beside the weight, which is float64 in a captured step."""
    torch.set_default_dtype(torch.float32)

    def shared(x):
        m = pyro.sample("m", dist.Normal(torch.zeros(()), 1.0))
        with lvm.data_plate(x):
            pyro.sample("x", dist.Normal(m, 1.0), obs=x)

    def shared_guide(x):
        pyro.sample("m", dist.Normal(pyro.param("loc", torch.tensor(0.0)), 0.5))

    options = {"objective": ELBO(kl_weight=linear_warm_up(9)), "num_steps": 14}
    fits = [fit(shared, shared_guide, X.float(), compile=c, **options) for c in (False, True)]
    assert_same(fits[1], fits[0])
    assert fits[1].losses.dtype == torch.float32


def test_validation_is_the_elbo_itself():
    options = {"num_epochs": 2, "batch_size": 6, "learning_rate": 1e-12, "validation": X}
    weighted = fit(model, still, X, objective=ELBO(kl_weight=3.0), **options)
    plain = fit(model, still, X, **options)
    torch.testing.assert_close(torch.tensor(weighted.validation), torch.tensor(plain.validation))
    assert (weighted.losses - plain.losses).abs().min() > 1


# ------------------------------------------------------------------------------------------- when it ends


def test_a_warm_up_is_not_taken_for_convergence(monkeypatch):
    monkeypatch.setattr(convergence, "_WINDOW", 30)
    monkeypatch.setattr(loop, "_CONVERGENCE_EVERY", 60)
    plain = fit(mean_model, None, X[:1] * 0, learning_rate=1e-12)
    assert (plain.converged, plain.num_steps) == (True, 60)
    warmed = fit(mean_model, None, X[:1] * 0, learning_rate=1e-12, objective=ELBO(kl_weight=linear_warm_up(250)))
    assert (warmed.converged, warmed.num_steps) == (True, 360)  # the first judgment with 60 steps at weight 1


def test_a_plateau_below_1_is_not_taken_for_convergence_either(monkeypatch):
    monkeypatch.setattr(convergence, "_WINDOW", 30)
    monkeypatch.setattr(loop, "_CONVERGENCE_EVERY", 60)
    objective = ELBO(kl_weight=lambda step: 0.1 if step < 200 else 1.0)
    fitted = fit(mean_model, None, X[:1] * 0, learning_rate=1e-12, objective=objective)
    assert (fitted.converged, fitted.num_steps) == (True, 300)


def test_a_weight_that_never_settles_never_converges(monkeypatch):
    monkeypatch.setattr(convergence, "_WINDOW", 30)
    monkeypatch.setattr(loop, "_CONVERGENCE_EVERY", 60)
    monkeypatch.setattr(loop, "MOST_STEPS", 200)
    with pytest.warns(UserWarning, match="has not converged after 200 steps"):
        fitted = fit(mean_model, None, X[:1], learning_rate=1e-12, objective=ELBO(kl_weight=lambda step: 1 + step % 2))
    assert fitted.converged is False


@pytest.mark.parametrize("num_steps", [3, 10])
def test_a_warm_up_that_has_not_ended_is_said(num_steps):
    said = rf"^the fit ended at a KL weight of {0.1 * (num_steps - 1):.3g}, .* Take more steps"
    with pytest.warns(UserWarning, match=said) as warned:
        fit(model, guide, X, objective=ELBO(kl_weight=linear_warm_up(10)), num_steps=num_steps)
    assert len(warned) == 1
    fit(model, guide, X, objective=ELBO(kl_weight=linear_warm_up(10)), num_steps=11)


def test_patience_waits_for_a_warm_up():
    """Judgments are at steps 2, 4, ...; the first that has a step at weight 1 behind it is at 62."""
    train, held_out = noise_to_overfit()
    options = {"validation": held_out, "num_epochs": 90, "batch_size": 3, "patience": 4}
    assert fit(regression, None, train, **options).num_steps < 60
    with pytest.warns(UserWarning, match="ended at a KL weight of"):  # it goes back to the best
        warmed = fit(regression, None, train, objective=ELBO(kl_weight=linear_warm_up(60)), **options)
    assert warmed.validation[-1][0] == 68
    back = fit(regression, None, train, objective=ELBO(kl_weight=lambda step: [0.5, 1.0][step > 9]), **options)
    assert back.num_steps < 60


def test_a_schedule_is_asked_for_no_step_beyond_the_last():
    weights = [1.0] * 20
    train, held_out = noise_to_overfit()
    options = {"validation": held_out, "num_epochs": 10, "batch_size": 3, "patience": 90}
    assert fit(regression, None, train, objective=ELBO(kl_weight=weights.__getitem__), **options).num_steps == 20


def test_going_back_into_the_warm_up_is_said():
    """Patience restores the step that was best on held-out data, which here is the first."""
    train, held_out = noise_to_overfit()
    options = {"validation": held_out, "num_epochs": 40, "batch_size": 3, "patience": 50}
    best = fit(regression, None, train, **options).validation
    step = max(best, key=lambda pair: pair[1])[0]
    with pytest.warns(UserWarning, match="ended at a KL weight of"):
        fit(regression, None, train, objective=ELBO(kl_weight=linear_warm_up(step)), **options)


# ------------------------------------------------------------------------------------------- what goes wrong


@pytest.mark.parametrize(
    ("schedule", "error", "message"),
    [
        (lambda step: -1.0, ValueError, r"'kl_weight\(0\)' must be finite, and not negative; got -1"),
        (lambda step: None, TypeError, r"'kl_weight\(0\)' must be a number; got None"),
        (lambda step: 1.0 if step < 3 else float("inf"), ValueError, r"'kl_weight\(3\)' must be finite.*got inf"),
    ],
)
def test_schedules_that_give_no_weight(schedule, error, message):
    with pytest.raises(error, match=message):
        fit(model, guide, X, objective=ELBO(kl_weight=schedule), num_steps=5, compile=False)


def test_a_global_that_a_weight_s_schedule_changes_is_seen(interpreted):
    noise = [1.0]

    def noisy(x):
        with lvm.data_plate(x):
            z = pyro.sample("z", dist.Normal(torch.zeros(()), 1.0))
            pyro.sample("x", dist.Normal(z, noise[0]), obs=x)

    def schedule(step):
        noise[0] = 1.0 + step
        return 1.0

    with pytest.raises(ValueError, match="read the variable 'noise', which changes between steps"):
        fit(noisy, guide, X, objective=ELBO(kl_weight=schedule), num_steps=60, compile=True)


@pytest.mark.slow
def test_compiled_steps_know_the_weight_of_each_and_whose_it_is():
    """With the compiler: schedule, transform and steps of the guide alone together, in float32."""
    torch.set_default_dtype(torch.float32)
    gray = torch.rand(40, 6, generator=torch.Generator().manual_seed(0))
    options = {"objective": ELBO(kl_weight=linear_warm_up(20)), "num_steps": 40, "num_guide_steps": 3}
    options |= {"batch_size": 8, "transform": torch.bernoulli}
    fits = [fit(*vae(), gray, compile=c, **options) for c in (False, True)]
    assert fits[1].execution.startswith("compiled in ")
    torch.testing.assert_close(fits[1].losses, fits[0].losses, rtol=1e-5, atol=1e-5)
