"""The transitions of annealed chains: they keep a known density as it is, and their step sizes are found."""

import math

import pytest
import torch

from pyrolvm.evidence.annealing import StepSizes, anneal, num_pilot_transitions, sigmoidal_temperatures, tune
from pyrolvm.evidence.hamiltonian import Point, transition

MEAN = [1.0, -2.0, 0.5]
PRECISION = [[2.0, 0.8, 0.0], [0.8, 1.0, 0.3], [0.0, 0.3, 0.5]]


def gaussian(position):
    """From N(0, 4 I) to the Gaussian of this mean and precision, neither normalized."""
    mean, precision = torch.tensor(MEAN), torch.tensor(PRECISION)
    away = (position - mean) @ precision
    start, end = -position.square().sum(-1) / 8, -0.5 * ((position - mean) * away).sum(-1)
    return Point(position, start, end - start, -position / 4, -away)


def exact_draws(count):
    return torch.distributions.MultivariateNormal(torch.tensor(MEAN), precision_matrix=torch.tensor(PRECISION)).sample(
        [count]
    )


@pytest.mark.parametrize("num_leapfrog_steps", [1, 4])
@pytest.mark.parametrize("step", [0.3, 0.9])
def test_transitions_keep_the_density(num_leapfrog_steps, step):
    """Mean and covariance of exact draws stay; with steps so long that leapfrog alone would not keep them."""
    torch.manual_seed(0)
    num_chains = 40_000
    point, accepted = gaussian(exact_draws(num_chains)), []
    for _ in range(20):
        point, probability = transition(gaussian, point, 1.0, torch.full((3,), step), num_leapfrog_steps)
        accepted.append(probability.mean())
    assert 0.2 < torch.stack(accepted).mean() < 0.999
    covariance = torch.linalg.inv(torch.tensor(PRECISION))
    error = (point.position.mean(0) - torch.tensor(MEAN)).abs() / (covariance.diagonal() / num_chains).sqrt()
    assert (error < 4).all()
    variances = covariance.diagonal()
    spread = ((variances[:, None] * variances + covariance**2) / num_chains).sqrt()
    assert ((point.position.T.cov() - covariance).abs() < 4 * spread).all()


def test_transitions_reach_the_density_between():
    """At beta = 1/2, from far away: precision and mean are those of the geometric mean of both ends."""
    torch.manual_seed(0)
    point = gaussian(torch.randn(20_000, 3) + 5)
    for _ in range(60):
        point, _ = transition(gaussian, point, 0.5, torch.full((3,), 0.5), 5)
    precision = 0.5 * torch.tensor(PRECISION) + 0.5 * torch.eye(3) / 4
    mean = torch.linalg.solve(precision, 0.5 * torch.tensor(PRECISION) @ torch.tensor(MEAN))
    error = (torch.linalg.inv(precision).diagonal() / 20_000).sqrt()
    assert ((point.position.mean(0) - mean).abs() < 4 * error).all()


def test_what_is_not_finite_is_rejected():
    """A density on the positive numbers alone, whose gradient is NaN elsewhere: chains stay on them."""
    seen = []

    def exponential(position):
        seen.append(position)
        x = position[..., 0]
        density = torch.where(x > 0, -x, math.nan)
        gradient = torch.where(position > 0, -1.0, math.nan)
        return Point(position, density, torch.zeros_like(x), gradient, gradient)

    torch.manual_seed(0)
    point = exponential(torch.distributions.Exponential(1.0).sample([20_000, 1]))
    for _ in range(20):
        point, _ = transition(exponential, point, 0.5, torch.full((1,), 0.5), 4)
    assert torch.isfinite(torch.stack(seen)).all()
    assert (point.position > 0).all()
    assert (point.position.mean() - 1).abs() < 4 / math.sqrt(20_000)
    assert (point.position.var() - 1).abs() < 4 * math.sqrt(8 / 20_000)


def test_a_start_of_no_density_keeps_weight_zero():
    def half(position):
        x = position[..., 0]
        weight = torch.where(x > 0, 0.0, -math.inf)
        return Point(position, -x.square() / 2, weight, -position, -position)

    torch.manual_seed(0)
    temperatures = sigmoidal_temperatures(10)
    start = half(torch.randn(2000, 1))
    steps = tune(half, half(torch.randn(16, 1)), temperatures, 3, lambda: None)
    weights = anneal(half, start, temperatures, steps, 3, lambda: None)
    assert torch.equal(weights == -math.inf, start.log_weight == -math.inf)
    assert (weights.exp().mean() - 0.5).abs() < 4 * 0.5 / math.sqrt(2000)


def test_temperatures():
    """Sigmoidal with delta = 4, from 0 to 1 exactly."""
    for count in (1, 2, 7, 1000):
        temperatures = torch.tensor(sigmoidal_temperatures(count))
        sigmoid = torch.sigmoid(4 * (2 * torch.arange(count + 1) / count - 1))
        expected = (sigmoid - sigmoid[0]) / (sigmoid[-1] - sigmoid[0])
        torch.testing.assert_close(temperatures, expected)
        assert temperatures[0] == 0
        assert temperatures[-1] == 1


def test_step_sizes_are_interpolated():
    steps = StepSizes([1, 5, 9], torch.tensor([1.0, 4.0, 16.0]).log()[:, None])
    found = torch.cat([steps.at(place) for place in (1, 3, 5, 7, 9)])
    torch.testing.assert_close(found, torch.tensor([1.0, 2.0, 4.0, 8.0, 16.0]))
    assert StepSizes([1], torch.zeros(1, 2)).at(1).tolist() == [1.0, 1.0]


@pytest.mark.parametrize("num_temperatures", [2, 5, 40, 200])
def test_acceptance_is_near_its_target(num_temperatures):
    """Single leapfrog steps, which the length of a trajectory does not bound, on correlated Gaussians."""
    torch.manual_seed(0)
    temperatures = sigmoidal_temperatures(num_temperatures)
    calls = []
    steps = tune(gaussian, gaussian(2 * torch.randn(16, 3)), temperatures, 1, lambda: calls.append(0))
    assert len(calls) == num_pilot_transitions(num_temperatures)
    point, accepted = gaussian(exact_draws(4000)), []
    place = num_temperatures - 1
    for _ in range(20):
        point, probability = transition(gaussian, point, temperatures[place], steps.at(place), 1)
        accepted.append(probability.mean())
    assert 0.6 < torch.stack(accepted[5:]).mean() < 0.9


def test_trajectories_stay_within_a_quarter_of_a_period():
    """So that chains do not return to where they began: one transition forgets it."""
    torch.manual_seed(0)

    def standard(position):
        zero = torch.zeros_like(position[..., 0])
        return Point(position, -position.square().sum(-1) / 2, zero, -position, -position)

    temperatures = sigmoidal_temperatures(100)
    steps = tune(standard, standard(torch.randn(16, 4)), temperatures, 10, lambda: None)
    before = standard(torch.randn(4000, 4))
    after, probability = transition(standard, before, 0.5, steps.at(50), 10)
    assert probability.mean() > 0.95
    correlation = (before.position * after.position).mean(0)
    assert (correlation.abs() < 0.3).all()


def test_no_temperatures_between_need_no_steps():
    start = gaussian(torch.randn(16, 3))
    assert tune(gaussian, start, [0.0, 1.0], 10, lambda: None) is None
    torch.testing.assert_close(anneal(gaussian, start, [0.0, 1.0], None, 10, lambda: None), start.log_weight)
    assert num_pilot_transitions(1) == 0
