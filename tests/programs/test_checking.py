"""What makes a pair wrong, and how it is said."""

import functools

import pyro
import pyro.distributions as dist
import pytest
import torch
from fitting.pairs import Mixed, X, guide, mixture, model
from pyro.infer.autoguide import AutoDiagonalNormal, AutoNormal

import pyrolvm as lvm
from pyrolvm.programs import refuse_collisions


def codes(*pair, **options):
    return [problem.code for problem in lvm.check(*pair, **options).problems]


def guide_with(*sites, plate=True, infer=None):
    """A guide that draws these sites, each a name and a distribution."""

    def drawing(x):
        if not plate:
            for name, fn in sites:
                pyro.sample(name, fn, infer=infer or {})
            return
        with lvm.data_plate(x):
            for name, fn in sites:
                pyro.sample(name, fn, infer=infer or {})

    return drawing


def normal(*shape):
    return dist.Normal(torch.zeros(shape), 1.0)


def positive(x):
    with lvm.data_plate(x):
        z = pyro.sample("z", dist.Exponential(torch.ones(())))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x)


def summed_by_samples(x):
    with lvm.data_plate(x):
        k = pyro.sample("k", dist.Bernoulli(0.3), infer={"enumerate": "parallel", "num_samples": 3})
        pyro.sample("x", dist.Normal(k, 1.0), obs=x)


def test_a_right_pair():
    report = lvm.check(model, guide, X)
    assert report.ok
    assert report.problems == ()
    assert str(report) == "no problems found"
    assert report.structure.data_plate == "data"
    report.raise_if_bad()


RIGHT = {
    "enumerated": (mixture, None),
    "a wider support in the model": (model, guide_with(("z", dist.LogNormal(torch.zeros(()), 1.0)))),
    "an auxiliary site whose image is the latent": (model, AutoDiagonalNormal(model)),
    "a guide that observes": (model, lambda x: (pyro.factor("score", torch.tensor(0.3)), guide(x))),
    "a leading dimension of size 1": (model, guide_with(("z", normal(1)))),
    "AutoNormal": (model, AutoNormal(model)),
    "a transformed distribution": (
        positive,
        guide_with(("z", dist.TransformedDistribution(normal(), dist.transforms.ExpTransform()))),
    ),
}


@pytest.mark.parametrize("pair", RIGHT.values(), ids=RIGHT)
def test_right_pairs(pair):
    assert lvm.check(*pair, X).ok


@pytest.mark.parametrize(
    ("pair", "code", "sites", "message"),
    [
        (
            (model, None),
            "missing-in-guide",
            ("z",),
            "The guide does not draw 'z'. Sample it in the guide, or take one of lvm.guides.$",
        ),
        ((model, guide_with()), "missing-in-guide", ("z",), "The guide does not draw 'z'"),
        (
            (model, guide_with(("z", normal()), ("w", normal()))),
            "missing-in-model",
            ("w",),
            "The guide draws 'w', which the model does not have. Remove it from the guide, or mark it infer=.*is_aux",
        ),
        (
            (model, guide_with(("z", normal()), ("x", normal()))),
            "missing-in-model",
            ("x",),
            "The guide draws 'x', which the model observes",
        ),
        (
            (model, guide_with(("z", normal(2).to_event(1)))),
            "shape-mismatch",
            ("z",),
            r"Site 'z' must have shape \(12,\), as in the model; the guide gives \(12, 2\). Use .expand and .to_event",
        ),
        (
            (model, guide_with(("z", normal()), plate=False)),
            "shape-mismatch",
            ("z",),
            r"Site 'z' must have shape \(12,\), as in the model; the guide gives \(\)",
        ),
        (
            (positive, guide_with(("z", normal()))),
            "support-mismatch",
            ("z",),
            "Site 'z' must lie in GreaterThanEq.lower_bound=0.0., the model's support; the guide draws others",
        ),
        (
            (model, lambda x: (pyro.sample("seen", normal(), obs=torch.tensor(1.0)), guide(x))),
            "observed-in-guide",
            ("seen",),
            "The guide observes 'seen', so its log-density would count as the guide's. Leave observed sites out",
        ),
        (
            (summed_by_samples, None),
            "enumeration-by-sampling",
            ("k",),
            "Site 'k' is marked with num_samples, so its sum would be an estimate. Leave num_samples out",
        ),
        (
            (
                model,
                lambda x: (pyro.sample("aux", normal(), infer={"is_auxiliary": True}), guide_with(("z", normal()))(x)),
            ),
            "unmatched-auxiliary",
            ("aux",),
            "The guide draws auxiliary 'aux', which no latent is a function of",
        ),
        ((model, guide_with(("z", normal(11)))), "does-not-run", (), "Running the pair raises ValueError: Shape mism"),
        ((lambda: None, guide), "does-not-run", (), "Running the pair raises TypeError: .*positional.*Run model"),
    ],
)
def test_wrong_pairs(pair, code, sites, message):
    report = lvm.check(*pair, X)
    assert not report.ok
    (problem,) = report.problems
    assert (problem.code, problem.sites) == (code, sites)
    assert str(report) == f"[{code}] {problem}"
    with pytest.raises(ValueError, match=message):
        report.raise_if_bad()


def test_a_discrete_latent_may_be_enumerated():
    def coins(x):
        with lvm.data_plate(x):
            z = pyro.sample("z", dist.Bernoulli(0.3))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    (problem,) = lvm.check(coins, None, X).problems
    assert 'or mark it infer={"enumerate": "parallel"} in the model to sum it out.' in str(problem)


def test_a_support_that_cannot_be_described_is_not_looked_at():
    class Odd(dist.Normal):
        @property
        def support(self):
            raise NotImplementedError

    def odd(x):
        with lvm.data_plate(x):
            z = pyro.sample("z", Odd(torch.zeros(()), 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    assert lvm.check(odd, guide, X).ok


def test_several_problems_are_all_reported():
    wrong = guide_with(("w", normal()))
    report = lvm.check(model, wrong, X, data_plate="rows")
    found = [problem.code for problem in report.problems]
    assert found == ["missing-in-guide", "missing-in-model", "unknown-data-plate"]
    with pytest.raises(ValueError, match="'z'.*\n.*'w'.*\n'data_plate' names no plate: 'rows'. Name one .*: 'data'"):
        report.raise_if_bad()
    assert len(str(report).splitlines()) == 3


def test_no_plate_to_name():
    def bare():
        pyro.sample("z", normal())

    report = lvm.check(bare, bare, data_plate="data")
    assert "Name one of the vectorized plates: none." in str(report)


def test_subsampled_plates():
    def subsampled(x):
        with pyro.plate("others", 6, subsample_size=2):
            pyro.sample("w", normal())

    both = lambda x: (subsampled(x), model(x)), lambda x: (subsampled(x), guide(x))  # noqa: E731
    (problem,) = lvm.check(*both, X, data_plate="data").problems
    assert (problem.code, problem.sites) == ("subsampled-plate", ("others",))
    assert "Only the data plate may be subsampled; plate 'others' is" in str(problem)
    with lvm.minibatch(12, torch.arange(4)):
        assert codes(*both, X[:4]) == ["subsampled-plate"]
        assert codes(model, AutoDiagonalNormal(model), X[:4]) == ["joint-subsampled"]
        assert codes(model, guide, X[:4]) == []


def test_no_trace_of_a_check_remains():
    pyro.param("slope", torch.tensor(7.0))
    before = dict(pyro.get_param_store().named_parameters())
    state = torch.get_rng_state()
    lvm.check(model, guide, X)
    lvm.check(model, None, X)
    lvm.check(model, lambda x: 1 / 0, X)
    assert torch.equal(state, torch.get_rng_state())
    assert dict(pyro.get_param_store().named_parameters()) == before


def test_bound_programs_are_checked_with_their_parameters():
    bound = lvm.bind(model, guide, X)[1]
    assert lvm.check(model, bound, X).ok


def test_keyword_arguments():
    def scaled(x, *, scale):
        with lvm.data_plate(x):
            pyro.sample("x", dist.Normal(0.0, scale), obs=x)

    assert lvm.check(scaled, lambda x, *, scale: None, X, scale=2.0).ok
    assert "missing 1 required keyword-only argument" in str(lvm.check(scaled, None, X))


def test_collisions_of_names():
    first, second = Mixed(), Mixed()
    report = lvm.check(first, second, X)
    assert [problem.code for problem in report.problems] == ["parameter-collision"]
    assert report.problems[0].sites == ("mixed.slope",)
    message = "Model and guide both own a parameter named 'mixed.slope', and Pyro would make them one"
    with pytest.raises(ValueError, match=message):
        refuse_collisions(functools.partial(first), second)
    with pytest.raises(ValueError, match=message):
        lvm.objectives.ELBO().differentiable_loss(first, second, X)
    refuse_collisions(first, first)  # one module in both roles is one tensor rightly
    refuse_collisions(first, None)
    refuse_collisions(torch.nn.Linear(1, 1), torch.nn.Linear(1, 1))  # these names never meet
