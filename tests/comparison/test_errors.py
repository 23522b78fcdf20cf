"""What a comparison refuses, before anything is fitted."""

import dataclasses
import re

import pandas as pd
import pyro
import pyro.distributions as dist
import pytest
import torch
from comparison.programs import (
    Linear,
    compared,
    data,
    learned_guide,
    learning_model,
    local_guide,
    local_model,
    nested_guide,
    nested_model,
    schools_model,
)

import pyrolvm as lvm

GOOD = {"learned": lambda model: learned_guide}


def joint_model(x):
    z = pyro.sample("z", dist.Normal(0.0, 1.0))
    pyro.sample("x", dist.Normal(z, 1.0).expand([4]).to_event(1), obs=x)


def shared_decoder():
    decoder = torch.nn.Linear(1, 1)

    def model(x):
        net = pyro.module("decoder", decoder)
        with lvm.data_plate(x):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(net(z[..., None]).squeeze(-1), 1.0), obs=x)

    return model


def check_refused(error, match, make_model=lambda: local_model, guides=GOOD, x=None, **options):
    steps = []

    class Counted(torch.optim.Adam):
        def step(self, *args, **kwargs):
            steps.append(1)
            return super().step(*args, **kwargs)

    if "fit_options" not in options:
        options["fit_options"] = {"num_steps": 50, "optimizer": Counted}
    with pytest.raises(error, match=re.escape(match)) as caught:
        compared(make_model, guides, x, **options)
    assert len(steps) <= 1 * len(guides) if isinstance(guides, dict) else not steps
    return caught


@pytest.mark.parametrize(
    ("error", "match", "options"),
    [
        (TypeError, "'make_model' must be a function that builds a model", {"make_model": 3}),
        (TypeError, "'make_model' must take no arguments; 'local_model' takes some", {"make_model": local_model}),
        (TypeError, "'make_model' must return a model, a Pyro program; got None", {"make_model": lambda: None}),
        (TypeError, "'guides' must be a dict", {"guides": [learned_guide]}),
        (TypeError, "'guides' must be a dict", {"guides": {1: learned_guide}}),
        (ValueError, "'guides' must not be empty", {"guides": {}}),
        (TypeError, "guides['mine'] must be a function of the model", {"guides": {"mine": 3}}),
        (TypeError, "guides['mine'] must return a guide", {"guides": {"mine": lambda model: 3}}),
        (TypeError, "'objectives' must be a dict", {"objectives": lvm.objectives.ELBO()}),
        (ValueError, "'objectives' must not be empty", {"objectives": {}}),
        (TypeError, "objectives['ELBO'] must be an instance", {"objectives": {"ELBO": lvm.objectives.ELBO}}),
        (TypeError, "'seeds' must be a tuple of integers", {"seeds": 3}),
        (TypeError, "'seeds' must be integers; got 0.5", {"seeds": (0.5,)}),
        (ValueError, "'seeds' must be different integers", {"seeds": ()}),
        (ValueError, "'seeds' must be different integers", {"seeds": (1, 1)}),
        (ValueError, "'seeds' must be different integers", {"seeds": (-1,)}),
        (TypeError, "'fit_options' must be a dict", {"fit_options": 100}),
        (
            ValueError,
            "which fit does not take. Did you mean 'num_steps'?",
            {"fit_options": {"num_step": 1}},
        ),
        (ValueError, "fit_options['seed'] is set by compare; leave it out", {"fit_options": {"seed": 1}}),
        (ValueError, "fit_options['data'] is set by compare; pass it to compare", {"fit_options": {"data": 1}}),
        (ValueError, "fit_options['num_steps'] must be a positive integer", {"fit_options": {"num_steps": 0}}),
        (ValueError, "fit_options['transform'] would train on other", {"fit_options": {"transform": torch.bernoulli}}),
        (ValueError, "give 'num_steps' or 'num_epochs'", {"fit_options": {"num_steps": 1, "num_epochs": 1}}),
        (ValueError, "'patience' needs validation data", {"fit_options": {"patience": 1}}),
        (ValueError, "'num_particles' must be at least 1", {"num_particles": 0}),
        (ValueError, "'evaluation_batch_size' must be at least 1", {"evaluation_batch_size": 0}),
        (TypeError, "'reference' must be a number", {"reference": "high"}),
        (ValueError, "'reference' must be finite", {"reference": float("nan")}),
        (ValueError, "'data' must be finite; row 1 holds nan", {"test": torch.tensor([0.0, float("nan")])}),
    ],
)
def test_arguments(error, match, options):
    check_refused(error, match, **options)


def test_module_in_place_of_a_function():
    check_refused(TypeError, "got a Linear. Pass lambda: Linear(...)", make_model=Linear())
    guide = lvm.guides.Amortized(local_model, torch.nn.Linear(1, 1))
    check_refused(TypeError, "got a Amortized. Pass lambda model: Amortized(...)", guides={"mine": guide})


def test_pair_with_a_problem():
    guides = {"good": lambda model: learned_guide, "bad": lambda model: lambda x: None}
    check_refused(ValueError, "guide 'bad': The guide does not draw 'z'", guides=guides)


def test_no_guide_where_one_is_needed():
    check_refused(ValueError, "guide 'none': The guide does not draw 'z'", guides={"none": None})


def test_model_that_does_not_run():
    check_refused(ValueError, "guide 'learned': Running the pair raises", x=(data(), data()))


def test_pair_that_a_fit_refuses():
    still = {"still": lambda model: local_guide_without_parameters}
    check_refused(ValueError, "guide 'still' with objective 'ELBO': there is nothing to fit", guides=still)


def local_guide_without_parameters(x):
    with lvm.data_plate(x):
        pyro.sample("z", dist.Normal(x / 2, 1.0))


def test_minibatches_without_a_data_plate():
    guides = {"mean-field": lvm.guides.MeanField}
    options = {"fit_options": {"num_steps": 5, "batch_size": 2}}
    check_refused(ValueError, "needs a data plate", lambda: partial_model, guides, **options)


def partial_model(x):
    z = pyro.sample("z", dist.Normal(0.0, 1.0))
    pyro.sample("x", dist.Normal(z, 1.0).expand([len(x)]).to_event(1), obs=x)


def test_joint_weights_in_batches():
    guides = {"mean-field": lvm.guides.MeanField}
    match = "'evaluation_batch_size' must be None where weights are joint"
    check_refused(ValueError, match, lambda: partial_model, guides, evaluation_batch_size=2)


def test_data_that_the_model_cannot_produce():
    guides = {"amortized": lambda model: lvm.guides.Amortized(model, torch.nn.Linear(3, 4))}
    x, test = torch.ones(5, 3), torch.full((5, 3), 7.0)
    make_model = lambda: lvm.models.VAE(2, torch.nn.Linear(2, 3))  # noqa: E731
    check_refused(ValueError, "guide 'amortized': ", make_model, guides, x, test=test)


def test_shared_model():
    model = Linear()
    match = "'make_model' returns a model with the same parameters each time it is called. Build it inside"
    check_refused(ValueError, match, make_model=lambda: model)
    function = shared_decoder()
    check_refused(ValueError, match, make_model=lambda: function)


def test_shared_guide():
    guide = lvm.guides.MeanField(joint_model)
    guide(data())
    match = "guides['mine'] returns a guide with the same parameters each time it is called"
    check_refused(ValueError, match, lambda: joint_model, {"mine": lambda model: guide})


def test_frozen_model_that_creates_parameters():
    match = "freeze_model=True needs a model whose parameters are there before it runs; it creates 'offset'"
    check_refused(ValueError, match, make_model=lambda: learning_model, freeze_model=True)
    match = "it creates 'decoder$$$"
    check_refused(ValueError, match, make_model=shared_decoder, freeze_model=True)


def test_paired_names():
    comparison = compared(lambda: local_model, {"exact": lambda model: local_guide()})
    with pytest.raises(ValueError, match=re.escape("there is no pair ('exact', 'IWELBO') of guide and objective")):
        comparison.paired(("exact", "ELBO"), ("exact", "IWELBO"))


def test_paired_without_a_common_run():
    with pytest.warns(UserWarning, match="failed"):
        comparison = compared(
            Linear,
            {"exact": lambda model: learned_guide},
            fit_options={"num_steps": 100, "learning_rate": 1e200},
        )
    with pytest.raises(ValueError, match="have no seed for which both ran"):
        comparison.paired(("exact", "ELBO"), ("exact", "ELBO"))


def test_paired_of_two_kinds():
    def tied(x):
        still = 0.0 * pyro.param("still", torch.tensor(0.0))
        with lvm.data_plate(x):
            pyro.sample("z", dist.Normal(x / 2 + still, 0.7))

    comparison = compared(lambda: local_model, {"local": lambda m: tied})
    joint = compared(lambda: nested_model, {"joint": lambda m: nested_guide})
    both = dataclasses.replace(
        comparison,
        table=pd.concat([comparison.table, joint.table], ignore_index=True),
        evidence=comparison.evidence + joint.evidence,
        fits=comparison.fits + joint.fits,
    )
    with pytest.raises(ValueError, match="must both have an evidence for each datum, or neither"):
        both.paired(("local", "ELBO"), ("joint", "ELBO"))


def test_schools_take_two_arguments():
    check_refused(ValueError, "Running the pair raises", lambda: schools_model, {"mf": lvm.guides.MeanField})


def test_frozen_model_and_nothing_else_to_fit():
    match = "there is nothing to fit: neither the model nor the guide has a parameter that is not frozen"
    guides = {"still": lambda model: local_guide_without_parameters}
    check_refused(ValueError, match, Linear, guides, freeze_model=True)
    options = {"fit_options": {"optimizer": torch.optim.Adam([torch.zeros(1)], lr=0.1)}, "freeze_model": True}
    check_refused(TypeError, "'optimizer' must be called as optimizer(parameters, lr=...)", Linear, **options)
