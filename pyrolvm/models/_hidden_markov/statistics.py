"""Both steps of EM for a hidden Markov model (Baum-Welch), for several runs at once, in float64."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from pyrolvm.models._hidden_markov.emissions import Emission, Moments
from pyrolvm.models._hidden_markov.forward_backward import Chain, backward, forward, smoothed, transitions
from pyrolvm.models._hidden_markov.sequences import Steps

__all__ = ["HiddenMarkovParameters", "HiddenMarkovStatistics", "expect", "maximize", "observed_only", "start"]

_NOTHING = 1e-30  # of a probability: what EM makes of 0, whose logit is infinite


class HiddenMarkovParameters(NamedTuple):
    """Parameters of R runs of EM, in float64.

    Attributes:
        initial: Log probabilities of the first state, shape (R, K).
        transition: Log probabilities of the next state given one, shape (R, K, K).
        locs: Means of the emissions, shape (R, K, D).
        scales: Roots of their covariances, shape (R, ...); (R, 0) where the means say all.
    """

    initial: Float[Tensor, "runs num_states"]
    transition: Float[Tensor, "runs num_states num_states"]
    locs: Float[Tensor, "runs num_states num_features"]
    scales: Tensor


class HiddenMarkovStatistics(NamedTuple):
    """Sums over sequences of what the M-step needs, in expectation under p(z | x).

    Attributes:
        initial: First states, shape (R, K).
        transitions: Pairs of states that follow each other, shape (R, K, K).
        counts: Steps in each state, shape (R, K).
        first: As in `Moments`.
        second: As in `Moments`.
    """

    initial: Float[Tensor, "runs num_states"]
    transitions: Float[Tensor, "runs num_states num_states"]
    counts: Float[Tensor, "runs num_states"]
    first: Float[Tensor, "runs num_states num_features"]
    second: Tensor


def start(emission: Emission, steps: Steps, num_states: int, seeds: Sequence[int | None]) -> HiddenMarkovParameters:
    """Emissions of clusters, and transitions as they follow each other, each counted once more than it was seen.

    Args:
        emission: What states emit.
        steps: The sequences, in float64.
        num_states: K.
        seeds: Of the runs.
    """
    locs, scales, members = emission.start(steps.x[steps.present], num_states, seeds)
    belong = members.new_zeros(len(members), *steps.present.shape, num_states)
    belong[:, steps.present] = members.mT
    followed = belong[..., :-1, :].flatten(1, 2).mT @ belong[..., 1:, :].flatten(1, 2) + 1
    first = belong[..., 0, :].sum(1) + 1
    return HiddenMarkovParameters(first.log().log_softmax(-1), followed.log().log_softmax(-1), locs, scales)


def expect(
    emission: Emission,
    parameters: HiddenMarkovParameters,
    steps: Steps,
    sample_weights: Float[Tensor, "batch"] | None,
) -> tuple[Float[Tensor, "runs batch"], HiddenMarkovStatistics]:
    """The E-step on some sequences: their log densities in nats, and the sums that the M-step needs.

    Args:
        emission: What states emit.
        parameters: Of R runs.
        steps: The sequences, in float64.
        sample_weights: How often each sequence counts in the sums; None for once.
    """
    initial, transition, locs, scales = parameters
    flat = steps.x.flatten(0, 1)
    log_prob = emission.log_prob(locs, scales, flat).mT.unflatten(1, steps.present.shape)
    chain = Chain(initial.unsqueeze(1), transition.unsqueeze(1), observed_only(log_prob, steps))
    filtered = forward(chain)
    messages = backward(chain, filtered)
    weights = steps.present.double() if sample_weights is None else steps.present * sample_weights.double()[:, None]
    states = smoothed(filtered, messages) * weights.unsqueeze(-1)
    pairs = transitions(chain, filtered, messages) * weights[:, 1:, None, None]
    moments = emission.gather(locs, scales, flat, states.flatten(1, 2).mT)
    statistics = HiddenMarkovStatistics(states[..., 0, :].sum(1), pairs.sum((1, 2)), *moments)
    return filtered.steps.sum(-1), statistics


def maximize(
    emission: Emission, parameters: HiddenMarkovParameters, statistics: HiddenMarkovStatistics
) -> HiddenMarkovParameters:
    """The maximum of the expected log joint density: the M-step.

    Args:
        emission: What states emit.
        parameters: With which the statistics were taken.
        statistics: Of all sequences, in float64.
    """
    initial, transition, locs, scales = parameters
    shares = _log_shares(statistics.initial, initial), _log_shares(statistics.transitions, transition)
    return HiddenMarkovParameters(*shares, *emission.maximize(locs, scales, Moments(*statistics[2:])))


def observed_only(
    log_prob: Float[Tensor, "*batch num_steps num_states"], steps: Steps
) -> Float[Tensor, "*batch num_steps num_states"]:
    """Log densities of the steps, 0 where there is none.

    Args:
        log_prob: Of each step in each state.
        steps: The sequences.
    """
    return torch.where(steps.present.unsqueeze(-1), log_prob, 0.0)


def _log_shares(counts: Float[Tensor, "*batch num_states"], before: Tensor) -> Tensor:
    """Log probabilities in proportion to counts; those before, where nothing was counted."""
    total = counts.sum(-1, keepdim=True)
    shares = (counts / total).clamp_min(_NOTHING).log()
    return torch.where(total > _NOTHING, shares, before)
