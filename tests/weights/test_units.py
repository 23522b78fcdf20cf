"""KL of units: they add up to what the log-densities say, with masks and scales, at once or in a loop."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from laws.cases import CASES
from pyro import poutine
from torch.distributions import kl_divergence

import pyrolvm as lvm
from pyrolvm.weights import draw, log_guide_at

LOCAL = [name for name, case in CASES.items() if case.kind == "local"]
X = torch.tensor([0.5, -1.0, 2.0], dtype=torch.float64)


def units_of(model, guide, *args, count=1, **options):
    draws = draw(model, guide, args, {}, counts=lambda _: (1, count), keep_units=True, **options)
    assert draws.units is not None
    return draws


@pytest.mark.parametrize("name", LOCAL)
def test_units_add_up_to_the_densities(name):
    model, guide, args = CASES[name].make()
    model, guide = lvm.bind(model, guide, *args)
    with torch.no_grad():
        draws = units_of(model, guide, *args, count=20 if CASES[name].costly else 400)
    units = draws.units
    torch.testing.assert_close(units.log_guide, draws.log_guide.local)
    at_draws = units.log_guide - units.log_prior
    difference = sum(kl.value.sum(-1) for kl in units.kls) - at_draws
    error = difference.std() / difference.numel() ** 0.5
    assert abs(difference.mean()) < 4 * error + 1e-9
    assert {name for kl in units.kls for name in kl.names} == set(draws.structure.local_latents)
    assert set(units.means) == set(draws.structure.local_latents) - set(draws.structure.auxiliary)


@pytest.mark.parametrize("name", LOCAL)
def test_the_guides_density_elsewhere_is_that_of_a_whole_run(name):
    """Values drawn given other rows: the guide alone gives what a run of the pair at these values gives."""
    case = CASES[name]
    model, guide, args = case.make()
    model, guide = lvm.bind(model, guide, *args)
    with torch.no_grad():
        draws = units_of(model, guide, *args, count=3)
        free = {n: latent for n, latent in draws.latents.items() if not lvm.programs.is_delta(latent.distribution)}
        moved = {n: latent.value.roll(1, latent.rows) for n, latent in free.items()}
        whole = units_of(model, guide, *args, count=3, latents=moved).units.log_guide[0]
        for is_looped in (False, True):
            if not is_looped and draws.is_looped:
                continue
            alone = log_guide_at(guide, args, {}, draws.structure, moved, is_looped=is_looped)
            torch.testing.assert_close(alone, whole)
    assert not torch.allclose(whole, draws.units.log_guide[0])


def scaled_pair(scale, mask):
    def model(x):
        with lvm.data_plate(x), poutine.scale(scale=scale[0]), poutine.mask(mask=mask):
            pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))

    def guide(x):
        with lvm.data_plate(x), poutine.scale(scale=scale[1]), poutine.mask(mask=mask):
            pyro.sample("z", dist.Normal(torch.stack([x, 2 * x], -1), 0.5).to_event(1))

    return model, guide


def test_masks_and_scales_of_both_multiply_the_divergence():
    mask = torch.tensor([True, False, True])
    kl = units_of(*scaled_pair((0.5, 0.5), mask), X).units.kls[0].value[0, 0]
    truth = kl_divergence(dist.Normal(torch.stack([X, 2 * X], -1), 0.5), dist.Normal(torch.zeros(3, 2), 1.0))
    torch.testing.assert_close(kl, 0.5 * truth * mask[:, None])


def test_where_only_the_model_is_scaled_each_density_has_its_own():
    draws = units_of(*scaled_pair((0.5, 1.0), torch.tensor(True)), X, count=3)
    z = draws.latents["z"].value[0]
    log_q = dist.Normal(torch.stack([X, 2 * X], -1), 0.5).log_prob(z)
    torch.testing.assert_close(draws.units.kls[0].value[0], log_q - 0.5 * dist.Normal(0.0, 1.0).log_prob(z))


def test_a_minibatch_does_not_scale_units():
    model, guide = scaled_pair((1.0, 1.0), torch.tensor(True))
    rows = torch.tensor([2, 0])
    whole = units_of(model, guide, X).units.kls[0].value[0, 0]
    with lvm.minibatch(3, rows):
        part = units_of(model, guide, X[rows]).units.kls[0].value[0, 0]
    torch.testing.assert_close(part, whole[rows])


def test_particles_one_by_one_have_the_same_units():
    model, guide = scaled_pair((1.0, 1.0), torch.tensor(True))
    at_once, looped = (units_of(model, guide, X, count=4, vectorize=each) for each in (True, False))
    assert looped.is_looped
    assert not at_once.is_looped
    torch.testing.assert_close(at_once.units.kls[0].value, looped.units.kls[0].value)
    torch.testing.assert_close(at_once.units.means["z"], looped.units.means["z"])
    assert looped.units.means["z"].shape == (1, 4, 3, 2, 1)


def test_categories_have_their_probabilities_as_means():
    logits = torch.stack([X, -X, 0 * X], -1)

    def model(x):
        with lvm.data_plate(x):
            pyro.sample("z", dist.Categorical(torch.ones(3) / 3))
            pyro.sample("y", dist.OneHotCategorical(torch.ones(3) / 3))

    def guide(x):
        with lvm.data_plate(x):
            pyro.sample("z", dist.Categorical(logits=logits))
            pyro.sample("y", dist.OneHotCategorical(logits=logits))

    units = units_of(model, guide, X).units
    probabilities = torch.softmax(logits, -1)
    truth = (probabilities * (3 * probabilities).log()).sum(-1)
    for kl in units.kls:
        torch.testing.assert_close(units.means[kl.names[0]][0, 0, :, 0], probabilities)
        torch.testing.assert_close(kl.value[0, 0, :, 0], truth)


def test_without_latents_of_each_datum_there_are_no_units():
    model, guide, args = CASES["enumerated"].make()
    model, guide = lvm.bind(model, guide, *args)
    assert draw(model, guide, args, {}, counts=lambda _: (1, 1), keep_units=True).units is None
    model, guide = scaled_pair((1.0, 1.0), torch.tensor(True))
    assert draw(model, guide, (X,), {}, counts=lambda _: (1, 1)).units is None
