"""A prior that is made of a guide's posteriors learns with that guide; with another it can be evaluated."""

import copy
import functools

import pyro
import pyro.distributions as dist
import pytest
import torch
from priors.test_vamp_prior import NUM_FEATURES, data, pair
from pyro import poutine

import pyrolvm as lvm
from pyrolvm.guides import Amortized
from pyrolvm.nn import MLP
from pyrolvm.objectives import ELBO

REFUSED = (
    r"VampPrior is tied to another guide than this one, whose parameters are not among the pair's\. Pass the guide "
    r"that it is tied to, tie it to this one, or freeze it where it shall stay as it is \(requires_grad_\(False\)\)\."
)


def fit(model, guide, **options):
    options = {"num_steps": 2, "compile": False, "seed": 0, "progress": False, **options}
    return lvm.fit(model, guide, data(), **options)


def stranger(model, family="diagonal"):
    torch.manual_seed(7)
    guide = Amortized(model, MLP(NUM_FEATURES, [6], 6, torch.nn.Tanh), family)
    with lvm.programs.parameter_scope():
        guide(data())
    return guide


def function(guide):
    return lambda x: guide(x)


def with_scale(model):
    """A model that is a function, with a latent outside the data plate."""

    def scaled(x):
        pyro.module("decoder", model.decoder)
        scale = pyro.sample("scale", dist.Gamma(2.0, 2.0))
        with lvm.data_plate(x):
            z = model.prior()
            return pyro.sample("x", dist.Normal(model.decoder(z), scale).to_event(1), obs=x)

    return scaled


def copied(model, guide):
    return copy.deepcopy((model, guide))


OWN = {
    "itself": lambda model, guide: (model, guide),
    "partial": lambda model, guide: (functools.partial(model), functools.partial(guide)),
    "a handler": lambda model, guide: (model, poutine.infer_config(guide, lambda site: {})),
    "a function": lambda model, guide: (model, function(guide)),
    "a join": lambda model, guide: (with_scale(model), lvm.guides.join(guide, lvm.guides.MeanField(with_scale(model)))),
    "bound": lambda model, guide: lvm.bind(model, function(guide), data()),
    "copied together": copied,
    "fitted": lambda model, guide: (lambda result: (result.model, result.guide))(fit(model, guide)),
}

OTHER = {
    "another": lambda model, guide: (model, stranger(model)),
    "partial": lambda model, guide: (functools.partial(model), functools.partial(stranger(model))),
    "a function": lambda model, guide: (model, function(stranger(model))),
    "a join": lambda model, guide: (
        with_scale(model),
        lvm.guides.join(stranger(model), lvm.guides.MeanField(with_scale(model))),
    ),
    "the encoder alone": lambda model, guide: (model, Amortized(model, guide.encoder)),
    "the model copied": lambda model, guide: (copy.deepcopy(model), guide),
    "the guide copied": lambda model, guide: (model, copy.deepcopy(guide)),
    "tied anew": lambda model, guide: (model.prior.tie(stranger(model)), (model, guide))[1],
}


@pytest.mark.parametrize("name", OWN)
def test_its_own_guide_is_known_however_it_comes(name):
    model, guide = OWN[name](*pair())
    report = lvm.check(model, guide, data())
    assert report.ok, report
    fit(model, guide)


@pytest.mark.parametrize("name", OTHER)
def test_another_guide_is_found_out(name):
    model, guide = OTHER[name](*pair())
    (problem,) = lvm.check(model, guide, data()).problems
    assert problem.code == "other-guide"
    before = [p.detach().clone() for p in lvm.programs.parameters_of(model, guide)]
    with pytest.raises(ValueError, match=REFUSED):
        fit(model, guide)
    assert all(torch.equal(p, b) for p, b in zip(lvm.programs.parameters_of(model, guide), before, strict=True))


@pytest.mark.parametrize("name", ["itself", "a function", "a join"])
def test_plain_pyro_trains_its_own_guide(name):
    model, guide = OWN[name](*pair())
    svi = pyro.infer.SVI(model, guide, pyro.optim.Adam({"lr": 0.01}), ELBO())
    for _ in range(2):
        svi.step(data())


@pytest.mark.parametrize("name", ["another", "a function", "a join"])
def test_plain_pyro_trains_no_other_guide(name):
    model, guide = OTHER[name](*pair())
    with pytest.raises(ValueError, match=REFUSED):
        pyro.infer.SVI(model, guide, pyro.optim.Adam({"lr": 0.01}), ELBO()).step(data())


class Slotted:
    """A guide without a weak reference."""

    __slots__ = ("guide",)

    def __init__(self, guide):
        self.guide = guide

    def __call__(self, x):
        return self.guide(x)


def test_plain_pyro_trains_guides_that_cannot_be_remembered():
    model, guide = pair()
    svi = pyro.infer.SVI(model, Slotted(guide), pyro.optim.Adam({"lr": 0.01}), ELBO())
    for _ in range(2):
        svi.step(data())


def test_plain_pyro_trains_without_a_guide():
    model = lvm.models.GaussianMixture(2, NUM_FEATURES)
    svi = pyro.infer.SVI(model, None, pyro.optim.Adam({"lr": 0.01}), ELBO())
    loss = -model.log_density(data()).sum().item()
    assert svi.step(data()) == pytest.approx(loss)
    assert svi.step(data()) < loss


def test_a_loss_as_a_module_is_of_its_own_guide():
    model, guide = pair()
    ELBO()(model, guide)(data()).backward()
    with pytest.raises(ValueError, match=REFUSED):
        ELBO()(model, stranger(model))


# ------------------------------------------------------------------------------------- what any guide may weigh


def log_evidence(model, guide, x):
    """By the trapezoidal rule over the one latent, the prior written out from the tied guide's normals."""
    z = torch.linspace(-12, 12, 20_001)
    loc, raw = guide.heads["head0"](guide.encoder(model.prior.pseudo_inputs)).unbind(-1)
    parts = dist.Normal(loc, torch.nn.functional.softplus(raw) + 1e-6).log_prob(z[:, None])
    log_prior = parts.logsumexp(-1) - torch.tensor(float(len(loc))).log()
    log_likelihood = dist.Bernoulli(logits=model.decoder(z[:, None])).log_prob(x[:, None]).sum(-1)
    return (log_prior + log_likelihood).logsumexp(-1) + (z[1] - z[0]).log()


def test_its_evidence_is_the_same_with_any_guide():
    model, guide = pair(num_latents=1)
    fit(model, guide, num_steps=50, learning_rate=0.05)
    x, other = data(4), stranger(model)
    truth = log_evidence(model, guide, x).detach()
    chains = {"num_temperatures": 20, "num_leapfrog_steps": 3, "progress": False}
    for evidence in (
        lvm.evidence.importance(model, other, x, num_particles=4000, seed=0),
        lvm.evidence.annealed(model, other, x, seed=0, **chains),
    ):
        assert ((evidence.log_evidence - truth).abs() < 4.5 * evidence.standard_error).all()
        assert evidence.standard_error.max() < 0.1
    weights = lvm.log_weights(model, other, x, num_particles=4000, seed=1)
    assert ((weights.local.logsumexp(0) - torch.tensor(4000.0).log() - truth).abs() < 0.1).all()


def freeze_prior(model, guide):
    model.prior.requires_grad_(False)


def freeze_guide(model, guide):
    guide.requires_grad_(False)


def freeze_model(model, guide):
    model.requires_grad_(False)


@pytest.mark.filterwarnings("ignore:.*was not registered in the param store")
@pytest.mark.parametrize("freeze", [freeze_prior, freeze_guide, freeze_model])
def test_what_is_frozen_may_be_fitted_another_guide_to(freeze, tmp_path):
    model, guide = pair(num_latents=1)
    other = stranger(model, "flow")
    freeze(model, guide)
    before = copy.deepcopy(guide.state_dict())
    assert lvm.check(model, other, data()).ok
    result = fit(model, other, num_steps=5)
    torch.testing.assert_close(guide.state_dict(), before, rtol=0, atol=0)
    result.save(tmp_path / "fit")
    again, own = pair(num_latents=1)
    another = stranger(again, "flow")
    freeze(again, own)
    lvm.load(tmp_path / "fit", again, another, data())


@pytest.mark.filterwarnings("ignore:the evidence is doubtful")
def test_a_comparison_takes_the_model_as_given():
    model, _ = pair(num_latents=1)
    options = {"num_steps": 2, "compile": False}
    guides = {"flow": lambda model: stranger(model, "flow")}
    found = lvm.compare(
        lambda: model,
        data(),
        guides=guides,
        freeze_model=True,
        seeds=(0,),
        num_particles=10,
        fit_options=options,
        progress=False,
    )
    assert list(found.table["problem"]) == [""]
    with pytest.raises(ValueError, match=REFUSED):
        lvm.compare(lambda: pair()[0], data(), guides=guides, seeds=(0,), fit_options=options, progress=False)


# ---------------------------------------------------------------------------------------------------- from files


def test_a_fit_is_loaded_into_a_model_with_its_own_guide(tmp_path):
    model, guide = pair()
    fit(model, guide).save(tmp_path / "fit")
    new, own = pair()
    other = stranger(new)
    before = copy.deepcopy((new.state_dict(), other.state_dict()))
    for args in ((), (data(),)):
        with pytest.raises(ValueError, match=REFUSED):
            lvm.load(tmp_path / "fit", new, other, *args)
    torch.testing.assert_close((new.state_dict(), other.state_dict()), before, rtol=0, atol=0)
    lvm.load(tmp_path / "fit", new, own)
    torch.testing.assert_close(new.sample(3, seed=1), model.sample(3, seed=1))


@pytest.mark.parametrize("name", ["itself", "partial", "a function", "a join"])
def test_its_own_guide_is_known_in_a_file_however_it_comes(name, tmp_path):
    model, guide = pair()
    fit(*OWN[name](model, guide)).save(tmp_path / "fit")
    new, own = pair()
    lvm.load(tmp_path / "fit", *OWN[name](new, own), data())
    torch.testing.assert_close(new.sample(3, seed=1), model.sample(3, seed=1))
    with pytest.raises(ValueError, match=REFUSED):
        lvm.load(tmp_path / "fit", *(OTHER | {"itself": OTHER["another"]})[name](new, own), data())


def test_a_model_copied_by_itself_keeps_the_prior_it_had():
    model, guide = pair()
    twin = copy.deepcopy(model)
    expected = twin.sample(5, seed=0)
    torch.testing.assert_close(expected, model.sample(5, seed=0))
    fit(model, guide, num_steps=20, learning_rate=0.1)
    torch.testing.assert_close(twin.sample(5, seed=0), expected)
    assert not torch.equal(model.sample(5, seed=0)[1], expected[1])
