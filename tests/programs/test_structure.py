"""Which plate is the data plate, and how the terms of a pair lie around it."""

from contextlib import ExitStack

import pyro
import pyro.distributions as dist
import pytest
import torch
from fitting.pairs import X, mixture, model
from pyro.infer.autoguide import AutoDiagonalNormal, AutoNormal
from pyro.poutine import Trace

import pyrolvm as lvm
from pyrolvm.programs import (
    Empty,
    apart,
    data_plate,
    data_plate_of,
    first_invalid_site,
    inspect_pair,
    run_apart,
    sample_sites,
    traced,
)
from pyrolvm.programs import structure as structure_module


def structure(program, its_guide=None, *args, data_plate=None):
    found, problems = inspect_pair(program, its_guide, args, {}, data_plate)
    assert problems == []
    return found


def in_plates(*sites):
    """A model of observed sites, each given as the plates around it, outermost first."""
    names = list(dict.fromkeys(name for plates in sites for name in plates))

    def program():
        plates = {name: pyro.plate(name, 3, dim=i - len(names)) for i, name in enumerate(names)}
        for i, around in enumerate(sites):
            with ExitStack() as stack:
                for name in around:
                    stack.enter_context(plates[name])
                pyro.sample(f"x{i}", dist.Normal(0.0, 1.0), obs=torch.zeros(()))

    return program


@pytest.mark.parametrize(
    ("sites", "expected"),
    [
        ([("schools",)], "schools"),
        ([("images", "pixels")], "images"),
        ([("images", "pixels"), ("images",)], "images"),
        ([("images", "pixels"), ("pixels",)], "pixels"),
        ([("reps", "data")], "data"),
        ([(), ("data",)], "data"),
        ([("data",), ("others",)], "data"),
        ([(), ("schools",)], None),  # not every site lies inside
        ([("schools",), ("pupils",)], None),
        ([()], None),
    ],
)
def test_which_plate_is_the_data_plate(sites, expected):
    found = structure(in_plates(*sites))
    assert found.data_plate == expected
    assert found.is_joint == (expected is None)
    assert found.num_rows == (1 if expected is None else 3)
    assert found.has_global_terms == any(expected not in around for around in sites)
    assert data_plate_of(in_plates(*sites), (), {}) == expected


def test_the_plate_that_is_named_comes_first():
    program = in_plates(("images", "data"))
    assert structure(program).data_plate == "data"
    assert structure(program, data_plate="images").data_plate == "images"


def test_the_subsampled_plate_comes_before_the_one_named_data():
    def program():
        with pyro.plate("images", 10, subsample_size=2), pyro.plate("data", 3):
            pyro.sample("x", dist.Normal(0.0, 1.0), obs=torch.zeros(3, 2))

    found = structure(program)
    assert (found.data_plate, found.num_rows, found.subsampled) == ("images", 2, True)


def test_a_minibatch_s_plate_comes_first():
    def program(x):
        with pyro.plate("reps", 2, dim=-2), data_plate(x, name="rows", dim=-1):
            pyro.sample("x", dist.Normal(0.0, 1.0), obs=torch.zeros(2, 3))

    with lvm.minibatch(9, torch.arange(3), data_plate="rows"):
        found = structure(program, None, torch.zeros(3))
        assert data_plate_of(program, (torch.zeros(3),), {}) == "rows"
    assert (found.data_plate, found.subsampled) == ("rows", True)
    assert structure(program, None, torch.zeros(3)).data_plate == "reps"


def test_sequential_plates_and_deterministic_sites_do_not_count():
    def program():
        for i in pyro.plate("data", 3):
            pyro.sample(f"x{i}", dist.Normal(0.0, 1.0), obs=torch.zeros(()))

    found = structure(program)
    assert found.is_joint
    assert found.nesting == 0

    def noting(x):
        pyro.deterministic("note", torch.zeros(()))
        with pyro.plate("schools", len(x)):
            pyro.sample("x", dist.Normal(0.0, 1.0), obs=x)

    found = structure(noting, None, X)
    assert found.data_plate == "schools"
    assert not found.has_global_terms


def everything(x):
    """Latents inside and outside, one of them enumerated, one in a plate of its own."""
    mean = pyro.sample("mean", dist.Normal(torch.zeros(()), 1.0))
    with pyro.plate("components", 2):
        locs = pyro.sample("locs", dist.Normal(mean, 1.0))
    with lvm.data_plate(x):
        k = pyro.sample("k", dist.Bernoulli(0.3), infer={"enumerate": "parallel"})
        z = pyro.sample("z", dist.Normal(mean, pyro.param("scale", torch.tensor(1.0))))
        pyro.sample("x", dist.Normal(z + locs[..., 0] * k, 1.0), obs=x)


def everything_guide(x):
    pyro.sample("mean", dist.Normal(pyro.param("at", torch.tensor(0.0)), 1.0))
    with pyro.plate("components", 2):
        pyro.sample("locs", dist.Normal(torch.zeros(()), 1.0))
    with lvm.data_plate(x):
        pyro.sample("z", dist.Normal(torch.zeros(()), 1.0))


def test_the_layout_of_a_pair():
    found = structure(everything, everything_guide, X)
    assert found.data_plate == "data"
    assert found.num_rows == 12
    assert found.nesting == 1
    assert found.local_latents == ("z",)
    assert found.global_latents == ("mean", "locs")
    assert found.enumerated == ("k",)
    assert found.has_global_terms
    assert found.guide_enumerated == found.score_function == ()
    assert not found.subsampled
    assert found.model_parameters == ("scale",)
    assert found.guide_parameters == ("at",)
    inside, outside = structure_module.latents(everything, (X,), {})
    assert (tuple(inside), tuple(outside)) == (("z",), ("mean", "locs"))


def test_score_function_and_guide_enumeration():
    def coins(x):
        with lvm.data_plate(x):
            z = pyro.sample("z", dist.Bernoulli(0.3))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def coins_guide(x):
        with lvm.data_plate(x):
            pyro.sample("z", dist.Bernoulli(0.5), infer={"enumerate": "parallel"} if coins_guide.enumerated else {})

    coins_guide.enumerated = False
    found = structure(coins, coins_guide, X)
    assert (found.score_function, found.guide_enumerated) == (("z",), ())
    coins_guide.enumerated = True
    assert structure(coins, coins_guide, X).guide_enumerated == ("z",)


@pytest.mark.parametrize(
    ("pair", "why"),
    [
        (lambda: (model, AutoDiagonalNormal(model)), "its one latent holds all rows"),
        (lambda: (outer_switch, None), "an enumerated site outside"),
        (lambda: (closing_term, AutoNormal(closing_term)), "a term outside depends on the latents inside"),
    ],
)
def test_what_ties_the_rows_makes_weights_joint(pair, why):
    found = structure(*pair(), X)
    assert found.is_joint, why
    assert found.num_rows == 1


def outer_switch(x):
    k = pyro.sample("k", dist.Bernoulli(0.4), infer={"enumerate": "parallel"})
    with lvm.data_plate(x):
        pyro.sample("x", dist.Normal(k, 1.0), obs=x)


def closing_term(x):
    with lvm.data_plate(x):
        z = pyro.sample("z", dist.Normal(torch.zeros(()), 1.0))
    pyro.sample("sum", dist.Normal(z.sum(-1), 1.0), obs=torch.tensor(0.0))


def test_an_auxiliary_site_inside_the_plate_ties_nothing():
    def image(x):
        with lvm.data_plate(x):
            aux = pyro.sample("aux", dist.Normal(x, 1.0), infer={"is_auxiliary": True})
            pyro.sample("z", dist.Delta(2 * aux, log_density=-torch.log(torch.tensor(2.0))))

    found = structure(model, image, X)
    assert found.data_plate == "data"
    assert found.local_latents == ("aux", "z")


# ------------------------------------------------------------------------------------------- runs on the side


def test_apart_hides_draws_and_keeps_the_minibatch():
    seen = []

    class Watching(pyro.poutine.messenger.Messenger):
        def _pyro_sample(self, msg):
            seen.append(msg["name"])

    state = torch.get_rng_state()
    with Watching(), lvm.minibatch(12, torch.tensor([5, 3])), apart():
        model(X[:2])
        with data_plate(2) as rows:
            assert rows.tolist() == [5, 3]
    assert seen == []
    assert torch.equal(state, torch.get_rng_state())


def test_run_apart_makes_parameters_and_nothing_else():
    state = torch.get_rng_state()
    names = run_apart(mixture, Empty(), X)
    assert [list(own) for own in names] == [["weights", "locs"], []]
    assert set(pyro.get_param_store()) == {"weights", "locs"}
    assert torch.equal(state, torch.get_rng_state())
    assert all(value.requires_grad for _, value in pyro.get_param_store().named_parameters())


def test_sites_and_traces():
    trace = traced(model, (X,), {})
    assert isinstance(trace, Trace)
    assert list(sample_sites(trace)) == ["z", "x"]
    with pytest.raises(ZeroDivisionError, match="^division by zero$"):
        traced(lambda: 1 / 0, (), {})


def test_the_empty_guide():
    assert Empty()(1, 2, three=3) is None
    assert list(Empty().parameters()) == []


def test_the_first_site_that_is_not_finite():
    def reaching(value):
        def program(x):
            with lvm.data_plate(x):
                pyro.sample("z", dist.Normal(torch.tensor(value) * x, 1.0))

        return program

    assert first_invalid_site(model, reaching(0.5), X) is None
    message = first_invalid_site(model, reaching(torch.nan), X)
    assert message == "site 'z' of the guide drew a value that is not finite"
    message = first_invalid_site(model, reaching(1e200), X)
    assert message == "the log-density of site 'z' of the model is not finite"

    def careless(x):
        raise ValueError("mine\nand more")

    assert first_invalid_site(careless, None, X) == "mine"
