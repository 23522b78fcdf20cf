"""Counts, widths and numbers of steps: one check, the same words everywhere, numpy's integers taken."""

import re

import numpy as np
import pytest
import torch

import pyrolvm as lvm
from pyrolvm.integers import as_integer, is_integer
from pyrolvm.nn import MLP, ConvDecoder, ConvEncoder
from pyrolvm.objectives import ELBO, linear_warm_up


@pytest.mark.parametrize("value", [3, np.int64(3), np.uint8(3), np.int32(3)])
def test_integers_of_python_and_numpy(value):
    assert is_integer(value)
    found = as_integer(value, "n")
    assert (found, type(found)) == (3, int)


@pytest.mark.parametrize("value", [3.0, True, np.True_, np.float64(3), "3", None, torch.tensor(3)])
def test_what_is_none(value):
    assert not is_integer(value)
    with pytest.raises(TypeError, match=re.escape(f"'n' must be an integer; got {value!r}.")):
        as_integer(value, "n")


def test_the_least():
    assert as_integer(0, "n", least=0) == 0
    assert as_integer(-5, "n", least=None) == -5
    with pytest.raises(ValueError, match=r"^'n' must be at least 1; got 0\.$"):
        as_integer(0, "n")
    with pytest.raises(ValueError, match=r"^'n' must be at least 2, to have a spread; got 1\.$"):
        as_integer(1, "n", least=2, why=", to have a spread")


def network():
    return MLP(2, [3], 5)


# One argument of each room, given an integer.
ARGUMENTS = {
    "models": ("num_latents", lambda n: lvm.models.VAE(n, network())),
    "models, draws": ("n", lambda n: lvm.models.VAE(2, network()).sample(n)),
    "nn": ("num_inputs", lambda n: MLP(n, [3], 5)),
    "nn, layers": ("hidden", lambda n: MLP(2, [n], 5)),
    "nn, images": ("image_shape", lambda n: ConvEncoder((n, 4), [2], 3)),
    "nn, channels": ("channels", lambda n: ConvDecoder(2, [n], (4, 4))),
    "likelihoods": ("num_categories", lambda n: lvm.likelihoods.Categorical(n)),
    "likelihoods, context": ("num_context", lambda n: lvm.likelihoods.Autoregressive(3, n, [2])),
    "priors": ("num_components", lambda n: lvm.priors.NormalMixture(n, 2)),
    "priors, flow": ("hidden_features", lambda n: lvm.priors.Flow(2, hidden_features=[n])),
    "guides": ("num_components", lambda n: lvm.guides.Mixture(lambda: None, n)),
    "guides, rank": ("rank", lambda n: lvm.guides.LowRank(lambda: None, rank=n)),
    "objectives": ("num_particles", lambda n: ELBO(n)),
    "objectives, warm-up": ("num_steps", lambda n: linear_warm_up(n)),
}


@pytest.mark.parametrize("name", ARGUMENTS)
def test_every_room_asks_alike(name):
    argument, make = ARGUMENTS[name]
    for value in (2, np.int64(2)):
        make(value)
    for value in (2.0, True):
        with pytest.raises(TypeError, match=re.escape(f"'{argument}' must be an integer; got {value!r}.")):
            make(value)
    least = 2 if argument == "num_categories" else 1
    with pytest.raises(ValueError, match=re.escape(f"'{argument}' must be at least {least}; got 0.")):
        make(0)


@pytest.mark.filterwarnings("ignore:all 2 units have collapsed")
def test_numpy_s_integers_go_through_whole_runs():
    """As they come out of arrays of settings; the same numbers as Python's."""
    x = (torch.rand(8, 5, generator=torch.Generator().manual_seed(0)) < 0.5).double()
    found = []
    for kind in (int, np.int64):
        torch.manual_seed(0)
        model = lvm.models.VAE(kind(2), network())
        guide = lvm.guides.Amortized(model, MLP(kind(5), [kind(3)], kind(4)))
        options = {"num_epochs": kind(2), "batch_size": kind(4), "num_guide_steps": kind(2), "seed": kind(0)}
        options |= {"validation": x, "patience": kind(1), "compile": False, "progress": False}
        result = lvm.fit(model, guide, x, objective=ELBO(kind(2)), **options)
        evidence = lvm.evidence.importance(
            result.model, result.guide, x, num_particles=kind(200), batch_size=kind(3), seed=kind(0)
        )
        features = lvm.features(result.model, result.guide, x, num_particles=kind(2), batch_size=kind(3))
        collapse = lvm.diagnostics.collapse(model, guide, x, num_draws=kind(4), batch_size=kind(3), seed=kind(0))
        found.append((result.losses, evidence.log_evidence, features, collapse.mutual_information))
    torch.testing.assert_close(*found)


@pytest.mark.filterwarnings("ignore:all 2 units have collapsed")
def test_numpy_s_small_integers_do_not_overflow():
    """100 epochs of 3 steps are 300 steps, which an int8 cannot hold."""
    x, most = torch.zeros(300, 5), np.int8(100)
    model = lvm.models.VAE(2, network())
    guide = lvm.guides.Amortized(model, MLP(5, [], 4))
    options = {"batch_size": most, "num_guide_steps": np.int8(2), "compile": False, "progress": False}
    assert len(lvm.fit(model, guide, x, num_epochs=most, **options).losses) == 300
    assert lvm.diagnostics.collapse(model, guide, x, num_draws=most).num_draws == 100
    counts = {"num_particles": 100, "num_temperatures": 127, "num_leapfrog_steps": 2}
    options = {"progress": False, "seed": 0}
    expected = lvm.evidence.annealed(model, None, x[:3], **counts, **options)
    found = lvm.evidence.annealed(model, None, x[:3], **{n: np.int8(v) for n, v in counts.items()}, **options)
    torch.testing.assert_close(found.log_evidence, expected.log_evidence)
