"""Hidden Markov models, with the state at each step enumerated."""

from typing import Any, Literal

import pyro
import pyro.distributions as dist
import torch
from jaxtyping import Float, Int
from pyro.nn import PyroParam
from pyro.ops.indexing import Vindex
from torch import Tensor

from pyrolvm.integers import as_integer
from pyrolvm.models._criteria import Criteria
from pyrolvm.models._hidden_markov.em import HiddenMarkovByEM
from pyrolvm.models._hidden_markov.emissions import Emission, Gaussian
from pyrolvm.models._hidden_markov.emissions_by_means import FAMILIES
from pyrolvm.models._hidden_markov.forward_backward import Chain, backward, forward, smoothed, viterbi
from pyrolvm.models._hidden_markov.sequences import Lengths, Sequences, as_sequence_batch, as_sequences, steps_of
from pyrolvm.models._hidden_markov.statistics import observed_only
from pyrolvm.models._inputs import as_nonnegative, check_choice
from pyrolvm.models._mixtures.covariances import KINDS
from pyrolvm.programs import data_plate
from pyrolvm.seeding import seeded

__all__ = ["HiddenMarkovModel"]


class HiddenMarkovModel(Criteria, HiddenMarkovByEM):
    """Hidden Markov model: p(x, z) = p(z_1) prod_t p(z_t | z_(t-1)) prod_t p(x_t | z_t), with K states z_t.

    Rows are sequences of T steps of D features; one series is `x[None]`. The states are enumerated, so no guide is
    needed: fit it with `lvm.fit_em(model, x)` (Baum-Welch), or by SVI with `guide=None`, some 2 ms for each step of
    the sequences. Shorter sequences are filled up, for fits with finite numbers, and their `lengths` given. The
    likelihood has many local maxima.

    Args:
        num_states: K.
        num_features: D.
        emission: Of x_t given z_t: "gaussian"; or features that are independent given the state, "poisson" for counts
            and "bernoulli" for bits; or "categorical", one-hot vectors of D categories.
        covariance: Of Gaussian emissions, as in `GaussianMixture`: "full" (None means it), "tied", "diagonal" or
            "spherical".
        regularization: Added to the variances of Gaussian emissions in the M-step, in squared units of x; None for
            1e-6. EM then climbs the log-likelihood up to terms of its order; with 0 it never decreases it at all.

    Attributes:
        initial_logits: Unnormalized log probabilities of the first state, shape (K,); a parameter.
        transition_logits: Those of the next state (last dimension) given one, shape (K, K); a parameter.
        locs, scale_tril or scale: Of Gaussian emissions, as in `GaussianMixture`; parameters.
        rates: Of Poisson emissions, shape (K, D); a parameter.
        logits: Of Bernoulli and categorical emissions, shape (K, D); a parameter.

    Raises:
        TypeError: If an argument is of the wrong type.
        ValueError: If a size is below 1, a word unknown, the regularization negative, or an option of Gaussian
            emissions is given with others.

    References:
        Baum, Petrie, Soules & Weiss 1970; Rabiner 1989; MacDonald & Zucchini 1997.

    Example:
        >>> model = HiddenMarkovModel(2, 3)
        >>> x, z = model.sample(4, 10, seed=0)
        >>> x.shape, model.log_density(x).shape, model.most_probable_path(x).shape
        (torch.Size([4, 10, 3]), torch.Size([4]), torch.Size([4, 10]))
    """

    def __init__(
        self,
        num_states: int,
        num_features: int,
        *,
        emission: Literal["gaussian", "poisson", "bernoulli", "categorical"] = "gaussian",
        covariance: Literal["full", "tied", "diagonal", "spherical"] | None = None,
        regularization: float | None = None,
    ) -> None:
        super().__init__("hidden_markov_model")
        self.num_states = as_integer(num_states, "num_states")
        self.num_features = as_integer(num_features, "num_features")
        self._emission = _emission_of(emission, covariance, regularization)
        self.emission = emission
        self.initial_logits = torch.nn.Parameter(torch.zeros(self.num_states))
        self.transition_logits = torch.nn.Parameter(torch.zeros(self.num_states, self.num_states))
        for name, value in self._emission.initial(self.num_states, self.num_features).items():
            limits = self._emission.constraints[name]
            free = torch.nn.Parameter(value) if limits is None else PyroParam(value, constraint=limits)
            setattr(self, name, free)

    def extra_repr(self) -> str:
        """Options, for the printed form."""
        return f"{self.num_states}, {self.num_features}, emission={self.emission!r}"

    def forward(
        self, x: Sequences | None = None, lengths: Lengths | None = None, *, size: int = 1, num_steps: int = 1
    ) -> Float[Tensor, "batch num_steps num_features"]:
        """The Pyro program, with sites "z_0", "x_0", "z_1", "x_1", ... in the data plate; each z_t is enumerated.

        A site for each state costs a step of Python, but can be asked for its marginals, observed or guided; x as one
        site with the states summed out (Pyro's DiscreteHMM) could not. `log_density` and EM go over tensors alone.

        Args:
            x: Sequences, shape (B, T, D); None to draw them.
            lengths: Numbers of steps, shape (B,); None for T. What x holds beyond them is not looked at.
            size: How many sequences to draw where x is None.
            num_steps: How many steps they have.

        Returns:
            The sequences, shape (B, T, D).

        Raises:
            TypeError, ValueError: If x or the lengths have the wrong shape or type. Values are looked at in
                `check_data` only.
        """
        data, present, num_steps = self._observed(x, lengths, as_integer(num_steps, "num_steps"))
        values = self._values()
        logits, transition = self.initial_logits, self.transition_logits.log_softmax(-1)
        steps = []
        with data_plate(as_integer(size, "size") if data is None else data):
            for t in pyro.markov(range(num_steps)):
                z = pyro.sample(f"z_{t}", dist.Categorical(logits=logits), infer={"enumerate": "parallel"})
                emission = self._emission.distribution(values, z)
                if present is not None:
                    emission = emission.mask(present[:, t])
                steps.append(pyro.sample(f"x_{t}", emission, obs=None if data is None else data[:, t]))
                logits = Vindex(transition)[..., z, :]
        return torch.stack(steps, -2)

    def component(self, z: Int[Tensor, "*batch"]) -> dist.TorchDistribution:
        """The distribution of a step given its state.

        Args:
            z: States in 0..K-1, of any shape.

        Returns:
            A distribution with batch shape that of z and event shape (D,).
        """
        return self._emission.distribution(self._values(), z)

    @property
    def initial_probabilities(self) -> Float[Tensor, "num_states"]:
        """Of the first state, shape (K,), summing to 1."""
        return self.initial_logits.softmax(-1)

    @property
    def transition_probabilities(self) -> Float[Tensor, "num_states num_states"]:
        """Of the next state (column) given one (row), shape (K, K); rows sum to 1."""
        return self.transition_logits.softmax(-1)

    @property
    def num_parameters(self) -> int:
        """Free parameters: K - 1 of the first state, K (K - 1) of the transitions, and those of the emissions."""
        chain = (self.num_states - 1) * (self.num_states + 1)
        return chain + self._emission.num_parameters(self.num_states, self.num_features)

    def check_data(
        self, x: Sequences, lengths: Lengths | None = None
    ) -> Float[Tensor, "num_data num_steps num_features"]:
        """Refuse data that the model cannot take; `fit` and `fit_em` call it once.

        Args:
            x: Sequences, shape (N, T, D).
            lengths: Numbers of steps, shape (N,); None for T.

        Returns:
            The sequences as a tensor of the model's dtype, on its device, with NaN at steps beyond a sequence's end.

        Raises:
            TypeError: If x does not hold real numbers, or the lengths no integers.
            ValueError: If a shape is wrong, there are no sequences or steps, a length is not in 1..T, or a value is not
                finite or cannot be emitted; the first bad one is named.
        """
        data = as_sequences(x, self.num_features, self._like, lengths)
        self._emission.check(data)
        return data

    def log_density(self, x: Sequences, lengths: Lengths | None = None) -> Float[Tensor, "num_data"]:
        """log p(x) of each sequence, in nats, by the forward algorithm.

        Args:
            x: Sequences, shape (N, T, D).
            lengths: Numbers of steps, shape (N,); None for T.

        Returns:
            Shape (N,).

        Raises:
            TypeError, ValueError: As `check_data`.
        """
        chain, _ = self._chain(x, lengths)
        return forward(chain).steps.sum(-1)

    def posterior(self, x: Sequences, lengths: Lengths | None = None) -> dist.Categorical:
        """p(z_t | x) of each step, by the forward-backward algorithm; beyond a sequence's end a forecast.

        Args:
            x: Sequences, shape (N, T, D).
            lengths: Numbers of steps, shape (N,); None for T.

        Returns:
            A distribution over 0..K-1 with batch shape (N, T).

        Raises:
            TypeError, ValueError: As `check_data`.
        """
        chain, _ = self._chain(x, lengths)
        filtered = forward(chain)
        return dist.Categorical(probs=smoothed(filtered, backward(chain, filtered)))

    @torch.no_grad()
    def most_probable_path(self, x: Sequences, lengths: Lengths | None = None) -> Int[Tensor, "num_data num_steps"]:
        """The states z with the highest p(z | x) together, by the Viterbi algorithm.

        Args:
            x: Sequences, shape (N, T, D).
            lengths: Numbers of steps, shape (N,); None for T.

        Returns:
            States in 0..K-1, shape (N, T); -1 beyond a sequence's end.

        Raises:
            TypeError, ValueError: As `check_data`.
        """
        chain, present = self._chain(x, lengths)
        return viterbi(chain, present).masked_fill(~present, -1)

    @torch.no_grad()
    def sample(
        self, n: int, num_steps: int, *, seed: int | None = None
    ) -> tuple[Float[Tensor, "n num_steps num_features"], Int[Tensor, "n num_steps"]]:
        """Draw sequences with their states.

        Args:
            n: How many.
            num_steps: T, steps of each.
            seed: An integer leaves the caller's generators as they were; None draws from them.

        Returns:
            Sequences of shape (n, T, D) and states of shape (n, T).

        Raises:
            ValueError: If a number is below 1.
        """
        with seeded(seed):
            states = [dist.Categorical(logits=self.initial_logits).sample((as_integer(n, "n"),))]
            for _ in range(as_integer(num_steps, "num_steps") - 1):
                states.append(dist.Categorical(logits=self.transition_logits[states[-1]]).sample())
            z = torch.stack(states, -1)
            return self.component(z).sample(), z

    def _observed(self, x: Any, lengths: Any, num_steps: int) -> tuple[Tensor | None, Tensor | None, int]:
        """Sequences, which of their steps are there (None for all), and how many steps they have."""
        if x is None:
            return None, None, num_steps
        data, ends = as_sequence_batch(x, self.num_features, self._like, lengths)
        if ends is None:
            return data, None, data.shape[1]
        present = torch.arange(data.shape[1], device=data.device) < ends.unsqueeze(-1)
        return torch.where(present.unsqueeze(-1), data, self._emission.filler(data)), present, data.shape[1]

    def _chain(self, x: Any, lengths: Any) -> tuple[Chain, Tensor]:
        """What the recursions go over, and which steps are there."""
        data = self.check_data(x, lengths)
        steps = steps_of(data, self._emission.filler(data))
        states = torch.arange(self.num_states, device=steps.x.device)
        emission = observed_only(self.component(states).log_prob(steps.x.unsqueeze(-2)), steps)
        chain = Chain(self.initial_logits.log_softmax(-1), self.transition_logits.log_softmax(-1), emission)
        return chain, steps.present

    def _num_observations(self, x: Any, *rest: Any) -> int:
        """Steps of all sequences."""
        return int((~self.check_data(x, *rest)[..., 0].isnan()).sum())

    @property
    def _like(self) -> Tensor:
        """A tensor with the dtype and device of the model; reading it is no statement of the Pyro program."""
        like = self._parameters["initial_logits"]
        assert like is not None
        return like


def _emission_of(emission: Any, covariance: Any, regularization: Any) -> Emission:
    check_choice(emission, ("gaussian", *FAMILIES), "emission")
    if emission != "gaussian":
        for name, value in (("covariance", covariance), ("regularization", regularization)):
            if value is not None:
                raise ValueError(f"'{name}' is an option of Gaussian emissions; got {value!r} with {emission!r}.")
        return FAMILIES[emission]
    check_choice("full" if covariance is None else covariance, KINDS, "covariance")
    amount = 1e-6 if regularization is None else as_nonnegative(regularization, "regularization")
    return Gaussian(KINDS["full" if covariance is None else covariance], amount)
