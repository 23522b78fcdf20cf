"""What `lvm.fit_em` asks of a hidden Markov model: starts from clusters of the steps, and both steps of Baum-Welch."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Self

import torch
from jaxtyping import Float
from pyro.nn import PyroModule
from torch import Tensor
from torch.distributions import transform_to

from pyrolvm.models._hidden_markov.emissions import Emission, Values
from pyrolvm.models._hidden_markov.sequences import Lengths, Sequences, Steps, steps_of
from pyrolvm.models._hidden_markov.statistics import (
    HiddenMarkovParameters,
    HiddenMarkovStatistics,
    expect,
    maximize,
    start,
)

__all__ = ["HiddenMarkovByEM"]


class HiddenMarkovByEM(PyroModule):
    """A hidden Markov model that `lvm.fit_em` fits.

    Attributes:
        num_states: K.
        num_features: D.
        initial_logits: Unnormalized log probabilities of the first state, shape (K,); a parameter.
        transition_logits: Those of the next state (last dimension) given one, shape (K, K); a parameter.
    """

    num_states: int
    num_features: int
    initial_logits: Tensor
    transition_logits: Tensor
    _emission: Emission

    @abstractmethod
    def check_data(
        self, x: Sequences, lengths: Lengths | None = None
    ) -> Float[Tensor, "num_data num_steps num_features"]:
        """Refuse data that the model cannot take.

        Args:
            x: Sequences, shape (N, T, D).
            lengths: Numbers of steps, shape (N,); None for T.

        Returns:
            The sequences, with NaN at steps beyond a sequence's end.
        """

    @property
    def degenerate(self) -> tuple[int, ...]:
        """States that are never entered, or with hardly any variance but the regularization in some direction."""
        entered = self.transition_logits.detach().double().softmax(-1).fill_diagonal_(0.0).amax(0)
        never = torch.maximum(entered, self.initial_logits.detach().double().softmax(-1)) < 1e-12
        bad = never | self._emission.spurious(self._values())
        return tuple(bad.nonzero().flatten().tolist())

    def initialize(self, x: Sequences, lengths: Lengths | None = None, *, seed: int | None = 0) -> Self:
        """Start from k-means on all steps, as they follow each other; bits and categories from drawn probabilities.

        Args:
            x: Sequences, shape (N, T, D).
            lengths: Numbers of steps, shape (N,); None for T.
            seed: An integer leaves the caller's generators as they were; None draws from them.

        Returns:
            The model itself, changed in place.

        Raises:
            TypeError, ValueError: As `check_data`, and if x has fewer distinct steps than states.
        """
        self.set_parameters(self.starts(self.check_data(x, lengths), [seed]))
        return self

    @torch.no_grad()
    def starts(
        self, x: Float[Tensor, "num_data num_steps num_features"], seeds: Sequence[int | None]
    ) -> HiddenMarkovParameters:
        """Parameters of several runs of EM, each as `initialize` would set them.

        Args:
            x: Sequences as `check_data` gives them.
            seeds: Of the runs.

        Raises:
            ValueError: If x has fewer distinct steps than states.
        """
        return start(self._emission, self._steps(x), self.num_states, seeds)

    @torch.no_grad()
    def get_parameters(self) -> HiddenMarkovParameters:
        """The model's parameters as those of one run of EM."""
        chain = (value.double().log_softmax(-1) for value in (self.initial_logits, self.transition_logits))
        values = (*chain, *self._emission.pack(self._values()))
        return HiddenMarkovParameters(*(value.detach().double().unsqueeze(0) for value in values))

    @torch.no_grad()
    def set_parameters(self, parameters: HiddenMarkovParameters) -> None:
        """Set the model's parameters, in place, to those of one run.

        Args:
            parameters: Of the run.

        Raises:
            ValueError: If its M-step found a singular covariance; the model is left as it was.
        """
        initial, transition, locs, scales = (value[0] for value in parameters)
        values = self._emission.unpack(locs, scales)
        self.initial_logits.copy_(initial)
        self.transition_logits.copy_(transition)
        for name, value in values.items():
            limits = self._emission.constraints[name]
            free = value if limits is None else transform_to(limits).inv(value)
            self.get_parameter(name if limits is None else f"{name}_unconstrained").copy_(free)

    @torch.no_grad()
    def expect(
        self,
        parameters: HiddenMarkovParameters,
        x: Float[Tensor, "batch num_steps num_features"],
        sample_weights: Float[Tensor, "batch"] | None = None,
    ) -> tuple[Float[Tensor, "runs batch"], HiddenMarkovStatistics]:
        """The E-step on some sequences, for `fit_em`; nothing is checked.

        Args:
            parameters: Of R runs.
            x: Sequences as `check_data` gives them, shape (B, T, D).
            sample_weights: How often each sequence counts in what the M-step needs, shape (B,); None for once.

        Returns:
            log p(x) of each sequence in nats, shape (R, B), and what the M-step needs of them, which adds up.
        """
        return expect(self._emission, parameters, self._steps(x), sample_weights)

    @torch.no_grad()
    def maximize_expected(
        self, parameters: HiddenMarkovParameters, statistics: HiddenMarkovStatistics
    ) -> HiddenMarkovParameters:
        """The M-step from what `expect` gave, added up over the sequences; a state without steps is kept as it is.

        Args:
            parameters: Those that `expect` was given.
            statistics: Of all sequences.

        Returns:
            New parameters; `set_parameters` refuses those of a run whose covariance is singular.
        """
        return maximize(self._emission, parameters, statistics)

    @property
    def numbers_per_row(self) -> int:
        """Numbers that `expect` holds for each step and run: what `fit_em` chooses the size of its chunks by."""
        return self.num_states * (self.num_states + self.num_features)

    def _values(self) -> Values:
        return {name: getattr(self, name) for name in self._emission.constraints}

    def _steps(self, x: Tensor) -> Steps:
        return steps_of(x.double(), self._emission.filler(x))
