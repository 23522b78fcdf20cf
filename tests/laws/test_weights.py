"""Laws of log weights: shapes, parts, and that particles run at once are particles run one by one."""

import pytest
import torch
from laws.cases import CASES, CENTERS, PLANE, POINTS, WEIGHTS, mixture_density, nested_guide, nested_model
from pyro import distributions as dist

import pyrolvm as lvm
from pyrolvm.programs import minibatch, structure_of

NAMES = pytest.mark.parametrize("name", list(CASES))


def bound_pair(name):
    model, guide, args = CASES[name].make()
    model, guide = lvm.bind(model, guide, *args)
    return model, guide, args


@NAMES
def test_shapes(name):
    model, guide, args = bound_pair(name)
    kind, num_data = CASES[name].kind, len(args[0]) if args else 0
    if kind == "both":
        weights = lvm.log_weights(model, guide, *args, num_particles=3, num_global_particles=2, seed=0)
        expected = (2, 3, num_data), (2,)
    else:
        weights = lvm.log_weights(model, guide, *args, num_particles=3, seed=0)
        expected = {
            "local": ((3, num_data), None),
            "none": ((3, num_data), None),
            "global": ((3, num_data), (3,)),
            "joint": (None, (3,)),
        }[kind]
    for value, shape in zip((weights.local, weights.global_), expected, strict=True):
        assert (None if value is None else tuple(value.shape)) == shape
    for latent in weights.latents.values():
        assert latent.shape[0] == (2 if kind == "both" else 3)


@NAMES
def test_weights_are_the_sum_of_their_parts(name):
    model, guide, args = bound_pair(name)
    weights = lvm.log_weights(model, guide, *args, num_particles=4, seed=0)
    for part in ("local", "global_"):
        total = getattr(weights, part)
        if total is not None:
            pieces = [getattr(getattr(weights, kind), part) for kind in ("log_likelihood", "log_prior", "log_guide")]
            signed = [p * sign for p, sign in zip(pieces, (1, 1, -1), strict=True) if p is not None]
            torch.testing.assert_close(sum(signed), total)


@NAMES
def test_seed_fixes_the_weights_and_leaves_the_generator(name):
    model, guide, args = bound_pair(name)
    state = torch.get_rng_state()
    first = lvm.log_weights(model, guide, *args, num_particles=2, seed=3)
    second = lvm.log_weights(model, guide, *args, num_particles=2, seed=3)
    assert torch.equal(state, torch.get_rng_state())
    for part in ("local", "global_"):
        if getattr(first, part) is not None:
            assert torch.equal(getattr(first, part), getattr(second, part))


@NAMES
def test_looped_particles_have_the_same_distribution(name):
    """ELBO by loop and at once agree within 4 standard errors."""
    model, guide, args = bound_pair(name)
    means, errors = [], []
    for vectorize in (True, False):
        objective = lvm.objectives.ELBO(num_particles=10, vectorize_particles=vectorize)
        values = torch.stack([objective.bound(model, guide, *args, seed=s).sum() for s in range(12)])
        means.append(values.mean())
        errors.append(values.var() / 12)
    assert (means[0] - means[1]).abs() <= 4 * torch.sqrt(sum(errors)) + 1e-9


def test_locals_are_weighted_given_their_globals():
    model, guide = lvm.bind(nested_model, nested_guide, POINTS)
    weights = lvm.log_weights(model, guide, POINTS, num_particles=5, num_global_particles=3, seed=0)
    m, z = weights.latents["m"], weights.latents["z"]
    assert m.shape == (3,)
    assert z.shape == (3, 5, len(POINTS))
    q_z = dist.Normal(0.4 * POINTS + 0.3 * m[:, None, None], 0.9).log_prob(z)
    local = dist.Normal(m[:, None, None], 1.0).log_prob(z) + dist.Normal(z, 1.0).log_prob(POINTS) - q_z
    torch.testing.assert_close(weights.local, local)
    torch.testing.assert_close(weights.global_, dist.Normal(0.0, 1.0).log_prob(m) - dist.Normal(0.3, 0.5).log_prob(m))


@pytest.mark.parametrize("name", ["globals and enumerated", "globals and enumerated, not broadcasting"])
def test_enumerated_given_globals(name):
    model, guide, args = bound_pair(name)
    weights = lvm.log_weights(model, guide, *args, num_particles=4, seed=0)
    locs = weights.latents["locs"]
    torch.testing.assert_close(weights.local, mixture_density(PLANE, WEIGHTS, locs))
    prior = dist.Normal(0.0, 1.0).log_prob(locs).sum((-1, -2))
    torch.testing.assert_close(weights.global_, prior - dist.Normal(CENTERS, 0.3).log_prob(locs).sum((-1, -2)))


@pytest.mark.parametrize("name", [n for n, case in CASES.items() if case.subsamples])
def test_local_part_does_not_depend_on_the_scale(name):
    model, guide, args = CASES[name].make()
    rows = torch.arange(2, 4)
    part = tuple(value[rows] for value in args)
    with minibatch(len(args[0]), rows):
        model, guide = lvm.bind(model, guide, *part, seed=0)
        scaled = lvm.log_weights(model, guide, *part, num_particles=3, seed=1)
    assert scaled.scale == len(args[0]) / 2
    if "AutoNormal" in name or "PerDatum" in name:  # they have rows of their own: no run of some without the handler
        return
    plain = lvm.log_weights(model, guide, *part, num_particles=3, seed=1)
    assert plain.scale == 1.0
    torch.testing.assert_close(plain.local, scaled.local)


def test_data_plate_is_found():
    for name, case in CASES.items():
        model, guide, args = bound_pair(name)
        structure = structure_of(model, guide, args, {})
        assert structure.data_plate == (None if case.kind == "joint" else "data"), name
