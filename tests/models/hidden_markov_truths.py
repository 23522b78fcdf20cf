"""Hidden Markov models by other ways: all paths one by one, and the textbook's recursions in numpy."""

import itertools

import numpy as np
import scipy.special
import scipy.stats
import torch

from pyrolvm.models import HiddenMarkovModel

EMISSIONS = {
    "full": {"covariance": "full"},
    "tied": {"covariance": "tied"},
    "diagonal": {"covariance": "diagonal"},
    "spherical": {"covariance": "spherical"},
    "poisson": {"emission": "poisson"},
    "bernoulli": {"emission": "bernoulli"},
    "categorical": {"emission": "categorical"},
}


def hidden_markov(emission="full", num_states=3, num_features=2, **options):
    """A model with arbitrary parameters."""
    torch.manual_seed(1)
    model = HiddenMarkovModel(num_states, num_features, **EMISSIONS[emission], **options)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter) / 2)
        if model.emission == "gaussian":
            model.locs.mul_(3)
    return model


def covariance(model, k):
    """Of a state with Gaussian emissions, by numpy."""
    if hasattr(model, "scale_tril"):
        factor = model.scale_tril.detach().numpy()
        factor = factor if factor.ndim == 2 else factor[k]
        return factor @ factor.T
    return np.diag(np.broadcast_to(model.scale[k].detach().numpy() ** 2, (model.num_features,)))


def emission_log_prob(model, x):
    """log p(x_t | z_t = k) by scipy, shape (..., K)."""
    x = np.asarray(x)
    columns = []
    for k in range(model.num_states):
        if model.emission == "gaussian":
            column = scipy.stats.multivariate_normal(model.locs[k].detach().numpy(), covariance(model, k)).logpdf(x)
            columns.append(np.reshape(column, x.shape[:-1]))
        elif model.emission == "poisson":
            columns.append(scipy.stats.poisson(model.rates[k].detach().numpy()).logpmf(x).sum(-1))
        else:
            logits = model.logits[k].detach().numpy()
            bits = scipy.stats.bernoulli(scipy.special.expit(logits)).logpmf(x).sum(-1)
            columns.append(bits if model.emission == "bernoulli" else x @ (logits - scipy.special.logsumexp(logits)))
    return np.stack(columns, -1)


def log_chain(model):
    initial, transition = model.initial_logits.detach().numpy(), model.transition_logits.detach().numpy()
    return scipy.special.log_softmax(initial), scipy.special.log_softmax(transition, -1)


def by_paths(model, x):
    """One sequence (T, D), all K^T paths one by one: log p(x), p(z_t | x) of shape (T, K), the most probable path."""
    (initial, transition), emission = log_chain(model), emission_log_prob(model, x)
    paths = np.array(list(itertools.product(range(model.num_states), repeat=len(x))))
    log_joint = initial[paths[:, 0]] + emission[np.arange(len(x)), paths].sum(-1)
    log_joint += transition[paths[:, :-1], paths[:, 1:]].sum(-1)
    posterior = scipy.special.softmax(log_joint)
    marginals = np.stack([posterior @ (paths == k) for k in range(model.num_states)], -1)
    return scipy.special.logsumexp(log_joint), marginals, paths[log_joint.argmax()]


def scaled_recursions(model, x):
    """One sequence: p(z_t | x) and p(z_t, z_(t+1) | x) by scaled forward and backward passes (Rabiner 1989)."""
    (initial, transition), b = map(np.exp, log_chain(model)), np.exp(emission_log_prob(model, x))
    alpha, beta, scale = np.empty_like(b), np.ones_like(b), np.empty(len(b))
    for t in range(len(b)):
        a = b[t] * (initial if t == 0 else alpha[t - 1] @ transition)
        scale[t] = a.sum()
        alpha[t] = a / scale[t]
    for t in range(len(b) - 2, -1, -1):
        beta[t] = transition @ (b[t + 1] * beta[t + 1]) / scale[t + 1]
    pairs = alpha[:-1, :, None] * transition * (b[1:] * beta[1:] / scale[1:, None])[:, None]
    return np.log(scale).sum(), alpha * beta, pairs


def baum_welch_step(model, sequences):
    """Initial and transition probabilities, means and covariances after a step of EM on sequences of any lengths."""
    first, followed, states = 0.0, 0.0, []
    for x in sequences:
        _, gamma, pairs = scaled_recursions(model, x)
        first, followed = first + gamma[0], followed + pairs.sum(0)
        states.append(gamma)
    x, gamma = np.concatenate(sequences), np.concatenate(states)
    means = gamma.T @ x / gamma.sum(0)[:, None]
    covariances = np.stack(
        [(gamma[:, k, None] * (x - means[k])).T @ (x - means[k]) / gamma[:, k].sum() for k in range(gamma.shape[1])]
    )
    return first / first.sum(), followed / followed.sum(-1, keepdims=True), means, covariances, gamma.sum(0)
