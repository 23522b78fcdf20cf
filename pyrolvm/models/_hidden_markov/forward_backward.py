"""Forward-backward and Viterbi recursions of a hidden Markov chain, in log space, each message normalized at each step.

K states, T steps. Any dimensions may lead, for instance runs at once and sequences; they broadcast. A step without an
observation has a log emission of 0 for each state.
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

__all__ = ["Chain", "Filtered", "backward", "forward", "smoothed", "transitions", "viterbi"]


class Chain(NamedTuple):
    """What the recursions go over, all in nats.

    Attributes:
        initial: Log probabilities of the first state, shape (..., K).
        transition: Log probabilities of the next state (last dimension) given one, shape (..., K, K).
        emission: Log densities of each step's observation given its state, shape (..., T, K).
    """

    initial: Float[Tensor, "*batch num_states"]
    transition: Float[Tensor, "*batch num_states num_states"]
    emission: Float[Tensor, "*batch num_steps num_states"]


class Filtered(NamedTuple):
    """What the forward pass gives.

    Attributes:
        states: log p(z_t | x_1 ... x_t), shape (..., T, K).
        steps: log p(x_t | x_1 ... x_(t-1)) in nats, shape (..., T); they sum to the log density.
    """

    states: Float[Tensor, "*batch num_steps num_states"]
    steps: Float[Tensor, "*batch num_steps"]


def forward(chain: Chain) -> Filtered:
    """The forward pass.

    Args:
        chain: The chain.
    """
    states, steps = [], []
    predicted = chain.initial
    for emission in chain.emission.unbind(-2):
        joint = predicted + emission
        step = joint.logsumexp(-1, keepdim=True)
        states.append(joint - step)
        steps.append(step)
        predicted = (states[-1].unsqueeze(-1) + chain.transition).logsumexp(-2)
    return Filtered(torch.stack(states, -2), torch.cat(steps, -1))


def backward(chain: Chain, filtered: Filtered) -> Float[Tensor, "*batch num_steps num_states"]:
    """The backward pass: log p(x_(t+1) ... x_T | z_t) less that of the same given x_1 ... x_t.

    Args:
        chain: The chain.
        filtered: What the forward pass gave.
    """
    message = torch.zeros_like(filtered.states[..., 0, :])
    messages = [message]
    pairs = zip(chain.emission.unbind(-2)[:0:-1], filtered.steps.unbind(-1)[:0:-1], strict=True)
    for emission, step in pairs:
        ahead = (emission + message - step.unsqueeze(-1)).unsqueeze(-2)
        message = (chain.transition + ahead).logsumexp(-1)
        messages.append(message)
    return torch.stack(messages[::-1], -2)


def smoothed(filtered: Filtered, messages: Float[Tensor, "*batch num_steps num_states"]) -> Tensor:
    """p(z_t = k | x), shape (..., T, K): rows sum to 1.

    Args:
        filtered: What the forward pass gave.
        messages: What the backward pass gave.
    """
    return (filtered.states + messages).softmax(-1)


def transitions(
    chain: Chain, filtered: Filtered, messages: Float[Tensor, "*batch num_steps num_states"]
) -> Float[Tensor, "*batch num_pairs num_states num_states"]:
    """p(z_t = i, z_(t+1) = j | x) of the T - 1 pairs of steps that follow each other.

    Args:
        chain: The chain.
        filtered: What the forward pass gave.
        messages: What the backward pass gave.
    """
    ahead = (chain.emission + messages - filtered.steps.unsqueeze(-1))[..., 1:, :]
    return (filtered.states[..., :-1, :].unsqueeze(-1) + chain.transition.unsqueeze(-3) + ahead.unsqueeze(-2)).exp()


def viterbi(chain: Chain, present: Bool[Tensor, "*batch num_steps"]) -> Int[Tensor, "*batch num_steps"]:
    """The states that have the highest probability together, given the observations.

    Args:
        chain: The chain.
        present: Which steps belong to the sequence, the first ones; the states of the others repeat the last.
    """
    best, choices = chain.initial + chain.emission[..., 0, :], []
    stay = torch.arange(best.shape[-1], device=best.device)
    for emission, here in zip(chain.emission.unbind(-2)[1:], present.unbind(-1)[1:], strict=True):
        value, choice = (best.unsqueeze(-1) + chain.transition).max(-2)
        best = torch.where(here.unsqueeze(-1), value + emission, best)
        best = best - best.amax(-1, keepdim=True)
        choices.append(torch.where(here.unsqueeze(-1), choice, stay))
    path = [best.argmax(-1, keepdim=True)]
    for choice in choices[::-1]:
        path.append(choice.gather(-1, path[-1]))
    return torch.cat(path[::-1], -1)
