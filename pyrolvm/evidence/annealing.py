"""Annealing chains from one distribution to another, and back, with step sizes from a run that does not count."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor

from pyrolvm.evidence.hamiltonian import Point, Target, transition

__all__ = ["StepSizes", "anneal", "num_pilot_transitions", "sigmoidal_temperatures", "tune"]

# Betas are spaced as a sigmoid between minus and plus this number.
_STEEPNESS = 4.0

# The pilot run visits at most so many temperatures, and stays at each for at least, and at most, so many transitions.
_PILOT_TEMPERATURES, _PILOT_TRANSITIONS, _LEAST, _MOST = 25, 75, 3, 12

_TARGET_ACCEPTANCE = 0.75

# A trajectory goes at most a quarter of the period that a Gaussian of the chains' spread has.
_LONGEST = math.pi / 2

# How far one transition moves the log step size, and the logarithm of the spread.
_GAIN, _NEW_SPREAD = 0.7, 0.5

# Chains are not taken to be narrower, in variance, than this share of the density.
_LEAST_LAG = 0.2

# Squares that are larger than this many medians are cut to it.
_FAR_OUT = 10.0


def sigmoidal_temperatures(num_temperatures: int) -> list[float]:
    """Inverse temperatures 0 = beta_0 < ... < beta_T = 1, dense at both ends.

    Args:
        num_temperatures: T, the number of steps from 0 to 1.

    References:
        Grosse, Ghahramani and Adams (2015), Sandwiching the marginal likelihood using bidirectional Monte Carlo,
        Section 6.1.
        Wu, Burda, Salakhutdinov and Grosse (2017), On the quantitative analysis of decoder-based generative models.

    Example:
        >>> [round(beta, 3) for beta in sigmoidal_temperatures(4)]
        [0.0, 0.105, 0.5, 0.895, 1.0]
    """
    raw = [1 / (1 + math.exp(-_STEEPNESS * (2 * t / num_temperatures - 1))) for t in range(num_temperatures + 1)]
    inner = [(value - raw[0]) / (raw[-1] - raw[0]) for value in raw[1:-1]]
    return [0.0, *inner, 1.0]


@dataclass(frozen=True)
class StepSizes:
    """Step sizes of each coordinate, kept at some temperatures and interpolated between them.

    Attributes:
        places: Numbers of the temperatures, ascending, shape (P,).
        log_steps: Logarithms of the step sizes there, shape (P, ..., D).
    """

    places: list[int]
    log_steps: Float[Tensor, "places *rows size"]

    def at(self, place: int) -> Float[Tensor, "*rows size"]:
        """The step sizes at one temperature.

        Args:
            place: Number of the temperature.
        """
        after = next((i for i, kept in enumerate(self.places) if kept >= place), len(self.places) - 1)
        before = max(after - 1, 0)
        gap = self.places[after] - self.places[before]
        share = min(1.0, (place - self.places[before]) / gap) if gap else 1.0
        return torch.lerp(self.log_steps[before], self.log_steps[after], share).exp()


def anneal(
    target: Target,
    point: Point,
    temperatures: list[float],
    steps: StepSizes | None,
    num_leapfrog_steps: int,
    advance: Callable[[], None],
    *,
    backward: bool = False,
) -> Float[Tensor, "*chains"]:
    """Log weights of annealed chains: sum_t (beta_t - beta_{t-1}) log w(z_{t-1}), nats.

    Backward, chains go from beta = 1 to 0, and the result is minus the log weight of the path.

    Args:
        target: Gives the densities at positions of shape (..., D).
        point: Where the chains start: draws at beta = 0, or at beta = 1 for backward ones.
        temperatures: Inverse temperatures from 0 to 1.
        steps: Step sizes, None where there are no temperatures between 0 and 1.
        num_leapfrog_steps: Steps of a trajectory.
        advance: Called after each transition.
        backward: Whether to go from 1 to 0.

    Returns:
        Log weights of shape (...), summed in float64. Those of the start alone where one of them is NaN or +inf.

    References:
        Neal (2001), Annealed importance sampling, Statistics and Computing 11, Eqs. 3-11.
    """
    if not bool((point.log_weight < math.inf).all()):
        return point.log_weight.to(torch.float64)
    places = range(len(temperatures))
    total = torch.zeros_like(point.log_weight, dtype=torch.float64)
    for here, there in pairwise(reversed(places) if backward else places):
        total = total + (temperatures[there] - temperatures[here]) * point.log_weight
        if steps is not None and 0 < there < len(temperatures) - 1:
            point, _ = transition(target, point, temperatures[there], steps.at(there), num_leapfrog_steps)
            advance()
    return total


def _pilot(num_temperatures: int) -> tuple[list[int], int]:
    """Numbers of the temperatures at which step sizes are found, and the transitions at each."""
    count = min(num_temperatures - 1, _PILOT_TEMPERATURES)
    if count < 1:
        return [], 0
    places = [1 + round(i * (num_temperatures - 2) / max(count - 1, 1)) for i in range(count)]
    return places, min(max(_PILOT_TRANSITIONS // count, _LEAST), _MOST)


def num_pilot_transitions(num_temperatures: int) -> int:
    """How many transitions :func:`tune` makes.

    Args:
        num_temperatures: T.
    """
    places, repeats = _pilot(num_temperatures)
    return len(places) * repeats


def tune(
    target: Target,
    point: Point,
    temperatures: list[float],
    num_leapfrog_steps: int,
    advance: Callable[[], None],
) -> StepSizes | None:
    """Step sizes for each temperature, and each datum, from a few chains that do not count.

    The step size of a coordinate is the spread of the chains, times one number that is raised while more than 75% of
    the proposals are accepted, and lowered while fewer are; a trajectory stays within a quarter of a period.

    Args:
        target: Gives the densities at positions of shape (C, ..., D).
        point: Draws at beta = 0: C chains, which come first.
        temperatures: Inverse temperatures from 0 to 1.
        num_leapfrog_steps: Steps of a trajectory.
        advance: Called after each transition.

    Returns:
        The step sizes; None where there are no temperatures between 0 and 1.
    """
    places, repeats = _pilot(len(temperatures) - 1)
    if not places:
        return None
    longest = math.log(_LONGEST / num_leapfrog_steps)
    log_step = torch.full_like(point.log_start[0], min(longest, 0.0))
    log_spread = _log_spread(point, temperatures[places[0]])
    log_steps = []
    for place in places:
        beta = temperatures[place]
        for _ in range(repeats):
            log_spread = torch.lerp(log_spread, _log_spread(point, beta), _NEW_SPREAD)
            step = (log_step.unsqueeze(-1) + log_spread).exp()
            point, probability = transition(target, point, beta, step, num_leapfrog_steps)
            log_step = (log_step + _GAIN * (probability.mean(0) - _TARGET_ACCEPTANCE)).clamp(max=longest)
            advance()
        log_steps.append(log_step.unsqueeze(-1) + log_spread)
    return StepSizes(places, torch.stack(log_steps))


def _log_spread(point: Point, beta: float) -> Float[Tensor, "*rows size"]:
    """Log standard deviation of each coordinate at an inverse temperature, from chains that may lag behind it.

    Where chains follow the density, the covariance of position and minus gradient is 1; where they are c times as wide,
    it is about c squared, by which their variance is divided.
    """
    away = point.position - point.position.median(0).values
    uphill = point.gradient(beta).nan_to_num(0.0, 0.0, 0.0)
    variance = _typical(away.square()).clamp(min=torch.finfo(away.dtype).tiny)
    lag = _typical(-away * uphill).clamp(min=_LEAST_LAG)
    return 0.5 * (variance / lag).log().nan_to_num(0.0, 0.0, 0.0)


def _typical(values: Tensor) -> Tensor:
    """Mean over the chains, of which a few that are far out do not decide."""
    bound = _FAR_OUT * values.abs().median(0).values
    return values.clamp(-bound, bound).mean(0)
