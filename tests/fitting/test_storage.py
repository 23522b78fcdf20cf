"""Fits on disk: what is read is what was written, and nothing else is accepted."""

import functools
import json
import pickle

import pyro
import pyro.distributions as dist
import pytest
import safetensors.torch
import torch
from fitting.pairs import X, fit, guide, mean_model, mixture, model
from pyro.distributions import constraints
from pyro.infer.autoguide import AutoDelta, AutoGuideList, AutoMultivariateNormal, AutoNormal
from pyro.nn import PyroModule, PyroParam
from torch.distributions import ExpTransform, transform_to

import pyrolvm as lvm
from pyrolvm.fitting import storage
from pyrolvm.fitting.constraints import constraint_from_json, constraint_to_json


@pytest.fixture
def path(tmp_path):
    return tmp_path / "fit.safetensors"


class Encoder(PyroModule):
    """A module with parameters, a constrained parameter, buffers and dropout."""

    def __init__(self, width=3):
        super().__init__("encoder")
        self.network = torch.nn.Sequential(torch.nn.Linear(1, width), torch.nn.BatchNorm1d(width))
        self.head = torch.nn.Linear(width, 1)
        self.scale = PyroParam(torch.tensor(0.8), constraint=constraints.positive)

    def forward(self, x):
        with lvm.data_plate(x):
            pyro.sample("z", dist.Normal(self.head(self.network(x[:, None]))[:, 0], self.scale))


class Mixed(PyroModule):
    """A module that has a parameter of Pyro's store as well."""

    def __init__(self):
        super().__init__("mixed")
        self.slope = torch.nn.Parameter(torch.rand(()))

    def forward(self, x):
        scale = pyro.param("scale", torch.tensor(1.0), constraint=constraints.positive)
        with lvm.data_plate(x):
            pyro.sample("z", dist.Normal(self.slope * x, scale))


class Pair(torch.nn.Module):
    """A model and a guide that are methods, in the way of Pyro's tutorials."""

    def __init__(self):
        super().__init__()
        self.decoder, self.encoder = torch.nn.Linear(1, 1), torch.nn.Linear(1, 1)

    def model(self, x):
        pyro.module("decoder", self.decoder)
        with lvm.data_plate(x):
            z = pyro.sample("z", dist.Normal(torch.zeros(()), 1.0))
            pyro.sample("x", dist.Normal(self.decoder(z[..., None])[..., 0], 1.0), obs=x)

    def guide(self, x):
        pyro.module("encoder", self.encoder)
        with lvm.data_plate(x):
            pyro.sample("z", dist.Normal(self.encoder(x[:, None])[:, 0], 1.0))


def registering():
    encoder = torch.nn.Linear(1, 1)

    def registering_guide(x):
        pyro.module("encoder", encoder)
        scale = pyro.param("scale", torch.tensor(0.9))
        with lvm.data_plate(x):
            pyro.sample("z", dist.Normal(encoder(x[:, None])[:, 0], scale))

    return registering_guide


def with_globals(x):
    mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
    with lvm.data_plate(x):
        pyro.sample("x", dist.Normal(mean, pyro.param("scale", torch.tensor(1.0))), obs=x)


def pair_of_methods():
    pair = Pair()
    return pair.model, pair.guide


def amortized():
    vae = lvm.models.VAE(1, torch.nn.Linear(1, 1), lvm.likelihoods.Gaussian())
    return vae, lvm.guides.Amortized(vae, torch.nn.Linear(1, 2))


# Programs, and the arguments that loading needs.
PAIRS = {
    "functions": (lambda: (model, guide), ()),
    "functions, with the data": (lambda: (model, guide), (X,)),
    "both functions have parameters": (lambda: (functools.partial(scaled_model, 1.0), guide), (X,)),
    "enumerated": (lambda: (mixture, None), ()),
    "AutoNormal": (lambda: (model, AutoNormal(model)), (X,)),
    "AutoNormal, with an array": (lambda: (model, AutoNormal(model)), (X.numpy(),)),
    "MeanField": (lambda: (with_globals, lvm.guides.MeanField(with_globals)), (X,)),
    "FullRank": (lambda: (with_globals, lvm.guides.FullRank(with_globals)), (X,)),
    "AutoMultivariateNormal": (lambda: (with_globals, AutoMultivariateNormal(with_globals)), (X,)),
    "module": (lambda: (model, Encoder()), ()),
    "module in partial": (lambda: (model, functools.partial(Encoder())), (X,)),
    "function and module": (lambda: (functools.partial(scaled_model, 1.0), Encoder()), ()),
    "module with a stored parameter": (lambda: (model, Mixed()), (X,)),
    "module with a stored parameter, without data": (lambda: (model, Mixed()), ()),
    "methods": (pair_of_methods, ()),
    "registered modules": (lambda: (model, registering()), (X,)),
}


def scaled_model(width, x):
    shift = pyro.param("shift", torch.tensor(0.1))
    with lvm.data_plate(x):
        z = pyro.sample("z", dist.Normal(shift, 1.0))
        pyro.sample("x", dist.Normal(z, width), obs=x)


@pytest.mark.filterwarnings("ignore:Pareto k-hat", "ignore:IWELBO.* equals the ELBO here")
@pytest.mark.parametrize("batch_size", [None, 4])
@pytest.mark.parametrize(("make", "args"), PAIRS.values(), ids=PAIRS)
def test_evaluation_gives_the_same_numbers(path, make, args, batch_size):
    torch.manual_seed(0)
    result = fit(*make(), X, num_steps=6, batch_size=batch_size, validation=X, learning_rate=0.05)
    result.save(path)
    torch.manual_seed(1)  # new modules start elsewhere
    store = dict(pyro.get_param_store().named_parameters())
    generator = torch.get_rng_state()
    loaded = lvm.load(path, *make(), *args)
    assert torch.equal(generator[-16:], torch.get_rng_state()[-16:]) or not args
    assert dict(pyro.get_param_store().named_parameters()) == store
    for evaluate in (
        lambda fit: lvm.objectives.ELBO(3).bound(fit.model, fit.guide, X, seed=1),
        lambda fit: lvm.objectives.IWELBO(3).bound(fit.model, fit.guide, X, seed=1),
        lambda fit: lvm.evidence.importance(fit.model, fit.guide, X, num_particles=10, seed=1).log_evidence,
    ):
        assert torch.equal(evaluate(loaded), evaluate(result))
    assert torch.equal(loaded.losses, result.losses)
    for name in ("validation", "converged", "seconds", "data_plate"):
        assert getattr(loaded, name) == getattr(result, name)
    assert loaded.registered.keys() == result.registered.keys()
    assert not list(path.parent.glob("*.tmp"))


def test_a_guide_whose_heads_are_made_on_the_first_run(path):
    column = X[:, None]
    result = fit(*amortized(), column, num_steps=3)
    result.save(path)
    new = amortized()
    with pytest.raises(
        ValueError, match="parameter 'heads.* of the guide does not exist yet: .* Pass the programs' arg"
    ):
        lvm.load(path, *new)
    loaded = lvm.load(path, *new, column)
    assert loaded.guide is new[1]
    assert torch.equal(*(lvm.objectives.ELBO().bound(f.model, f.guide, column, seed=0) for f in (loaded, result)))


def schools():
    return lvm.models.eight_schools_noncentered(X[:3], torch.ones(3))


def in_parts(program):
    parts = AutoGuideList(program)
    parts.append(AutoNormal(pyro.poutine.block(program, expose=["mu", "tau"])))  # noqa: TID251
    parts.append(AutoDelta(pyro.poutine.block(program, hide=["mu", "tau"])))
    return parts


@pytest.mark.parametrize("family", [AutoNormal, AutoMultivariateNormal, lvm.guides.FullRank, in_parts])
def test_programs_without_arguments_need_none(path, family):
    result = fit(schools, family(schools), num_steps=3)
    result.save(path)
    loaded = lvm.load(path, schools, family(schools))
    assert loaded.data_plate is None
    assert torch.equal(*(lvm.objectives.ELBO().bound(f.model, f.guide, seed=0) for f in (loaded, result)))


def test_a_loaded_fit_can_be_fitted_on_and_saved_again(path):
    first = fit(model, guide, X, num_steps=3)
    first.save(path)
    loaded = lvm.load(path, model, guide)
    again = fit(loaded.model, loaded.guide, X, num_steps=3)
    assert torch.equal(again.losses, fit(first.model, first.guide, X, num_steps=3).losses)
    loaded.save(path)
    assert lvm.load(path, model, guide).guide.parameters == first.guide.parameters


def test_bound_programs_are_taken_as_the_programs_in_them(path):
    result = fit(model, guide, X, num_steps=3)
    result.save(path)
    other = fit(model, guide, X, num_steps=9)
    loaded = lvm.load(path, other.model, other.guide, X)
    assert loaded.guide.parameters == result.guide.parameters
    assert loaded.guide.parameters != other.guide.parameters


def test_float32(path):
    torch.set_default_dtype(torch.float32)
    result = fit(model, guide, X, num_steps=3)
    result.save(path)
    loaded = lvm.load(path, model, guide, X)
    assert loaded.guide.parameters["slope"].dtype == torch.float32
    assert torch.equal(*(lvm.objectives.ELBO().bound(f.model, f.guide, X, seed=0) for f in (loaded, result)))


def test_what_is_not_finite_is_kept(path):
    result = lvm.FitResult(mean_model, None, torch.tensor([torch.inf, torch.nan]), [(3, -torch.inf)], False, 1.5)
    result.save(path)
    loaded = lvm.load(path, mean_model)
    assert torch.equal(loaded.losses.nan_to_num(1.0), result.losses.nan_to_num(1.0))
    assert loaded.validation == [(3, -torch.inf)]
    assert (loaded.converged, loaded.seconds, loaded.num_steps) == (False, 1.5, 2)


# ------------------------------------------------------------------------------------------- constraints

CONSTRAINTS = {
    "real": (constraints.real, (3,)),
    "real_vector": (constraints.real_vector, (3,)),
    "positive": (constraints.positive, (3,)),
    "nonnegative": (constraints.nonnegative, (3,)),
    "softplus_positive": (constraints.softplus_positive, (3,)),
    "greater_than": (constraints.greater_than(-1.5), (3,)),
    "greater_than a vector": (constraints.greater_than(torch.tensor([1.0, 2.0, -3.0])), (3,)),
    "greater_than_eq": (constraints.greater_than_eq(2), (3,)),
    "less_than": (constraints.less_than(0.1), (3,)),
    "unit_interval": (constraints.unit_interval, (3,)),
    "interval": (constraints.interval(-1, 2.5), (3,)),
    "interval of tensors": (constraints.interval(torch.tensor([0.0, 1.0]), torch.tensor(4.0)), (3, 2)),
    "half_open_interval": (constraints.half_open_interval(-1.0, 0.3), (3,)),
    "simplex": (constraints.simplex, (3,)),
    "ordered_vector": (constraints.ordered_vector, (3,)),
    "positive_ordered_vector": (constraints.positive_ordered_vector, (3,)),
    "sphere": (constraints.sphere, (3,)),
    "lower_cholesky": (constraints.lower_cholesky, (3, 3)),
    "softplus_lower_cholesky": (constraints.softplus_lower_cholesky, (3, 3)),
    "unit_lower_cholesky": (constraints.unit_lower_cholesky, (3, 3)),
    "positive_definite": (constraints.positive_definite, (3, 3)),
    "corr_cholesky": (constraints.corr_cholesky, (3,)),
    "corr_matrix": (constraints.corr_matrix, (3,)),
    "independent": (constraints.independent(constraints.positive, 1), (2, 3)),
    "independent twice": (constraints.independent(constraints.independent(constraints.simplex, 1), 1), (2, 2, 3)),
    "stack": (constraints.stack([constraints.positive, constraints.interval(0.0, 1.0)], dim=-1), (3, 2)),
    "cat": (constraints.cat([constraints.positive, constraints.real], dim=0, lengths=[1, 2]), (3,)),
}


@pytest.mark.parametrize(("constraint", "shape"), CONSTRAINTS.values(), ids=CONSTRAINTS)
def test_constraints_behave_as_before(constraint, shape):
    written = json.dumps(constraint_to_json(constraint), allow_nan=False)
    restored = constraint_from_json(json.loads(written))
    assert type(restored) is type(constraint)
    unconstrained = torch.randn(shape)
    value = transform_to(constraint)(unconstrained)
    assert torch.equal(transform_to(restored)(unconstrained), value)
    assert torch.equal(restored.check(value), constraint.check(value))
    assert restored.event_dim == constraint.event_dim


def test_a_bound_that_is_infinite():
    restored = constraint_from_json(constraint_to_json(constraints.interval(-torch.inf, 2.0)))
    assert (restored.lower_bound, restored.upper_bound) == (-torch.inf, 2.0)


@pytest.mark.parametrize("name", ["positive", "simplex", "softplus_lower_cholesky", "interval of tensors"])
def test_constrained_parameters_in_a_file(path, name):
    constraint, shape = CONSTRAINTS[name]
    initial = transform_to(constraint)(torch.randn(shape))

    def constrained(x):
        value = pyro.param("value", initial, constraint=constraint)
        with lvm.data_plate(x):
            pyro.sample("x", dist.Normal(value.sum(), 1.0), obs=x)

    result = fit(constrained, None, X, num_steps=3)
    result.save(path)
    loaded = lvm.load(path, constrained, None, X)
    assert torch.equal(loaded.model.parameters["value"], result.model.parameters["value"])


def test_a_constraint_that_cannot_be_written(path):
    class Even(type(constraints.positive)):
        def __init__(self):
            super().__init__(0.0)

    transform_to.register(Even, lambda _: ExpTransform())

    def constrained(x):
        value = pyro.param("value", torch.tensor(2.0), constraint=Even())
        with lvm.data_plate(x):
            pyro.sample("x", dist.Normal(value, 1.0), obs=x)

    result = fit(constrained, None, X, num_steps=2)
    with pytest.raises(TypeError, match="parameter 'value' of the model cannot be written: constraint .* class Even"):
        result.save(path)
    assert not path.exists()


# ------------------------------------------------------------------------------------------- writing


def test_tensors_that_cannot_be_written(path):
    class Extra(Encoder):
        def get_extra_state(self):
            return {"vocabulary": ["a"]}

        def set_extra_state(self, state):
            pass

    with pytest.raises(TypeError, match="'guide/module/_extra_state' cannot be written: it must be a tensor; got dict"):
        lvm.FitResult(model, Extra(), torch.zeros(1)).save(path)
    module = torch.nn.Module()
    module.register_buffer("phase", torch.zeros(2, dtype=torch.complex128))
    with pytest.raises(TypeError, match="'guide/module/phase' cannot be written: .* of torch.complex128"):
        lvm.FitResult(model, module, torch.zeros(1)).save(path)
    module.phase = torch.eye(2).to_sparse()
    with pytest.raises(TypeError, match="'guide/module/phase' cannot be written"):
        lvm.FitResult(model, module, torch.zeros(1)).save(path)
    assert not path.exists()


def test_buffers_of_modules_inside_functions(path):
    network = torch.nn.Sequential(torch.nn.Linear(1, 1), torch.nn.BatchNorm1d(1))

    def normalizing(x):
        pyro.module("network", network)
        with lvm.data_plate(x):
            pyro.sample("z", dist.Normal(network(x[:, None])[:, 0], 1.0))

    result = fit(model, normalizing, X, num_steps=2)
    with pytest.warns(UserWarning, match="buffer '1.running_mean' of Sequential is not saved: the guide is a function"):
        result.save(path)


def test_tied_and_strided_tensors(path):
    module = torch.nn.Module()
    module.first = torch.nn.Parameter(torch.randn(3, 2).T)
    module.second = module.first
    module.register_buffer("view", torch.arange(10.0)[::2])
    lvm.FitResult(model, module, torch.zeros(1)).save(path)
    stored = safetensors.torch.load_file(path)
    assert torch.equal(stored["guide/module/first"], module.first)
    assert torch.equal(stored["guide/module/second"], module.first)
    assert torch.equal(stored["guide/module/view"], module.view)


def test_where_a_file_cannot_go(tmp_path):
    result = fit(mean_model, None, X, num_steps=2)
    with pytest.raises(FileNotFoundError, match=r"there is no folder '.*nowhere' to write 'a.safetensors' to"):
        result.save(tmp_path / "nowhere" / "a.safetensors")
    with pytest.raises(ValueError, match="'path' must be a file; got the folder"):
        result.save(str(tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_a_write_that_fails_leaves_the_old_file(path, monkeypatch):
    first = fit(mean_model, None, X, num_steps=2)
    first.save(str(path))
    before = path.read_bytes()

    def full(tensors, filename, metadata):
        with open(filename, "wb") as file:
            file.write(b"half of it")
        raise OSError("no space left on device")

    monkeypatch.setattr(storage, "save_file", full)
    with pytest.raises(OSError, match="no space left"):
        fit(mean_model, None, X, num_steps=9).save(path)
    assert path.read_bytes() == before
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_a_file_is_replaced(path):
    fit(mean_model, None, X, num_steps=2).save(path)
    fit(mean_model, None, X, num_steps=5).save(path)
    assert lvm.load(path, mean_model).num_steps == 5


# ------------------------------------------------------------------------------------------- reading


def test_nothing_is_unpickled(path, monkeypatch):
    fit(model, AutoNormal(model), X, num_steps=2).save(path)

    def forbidden(*args, **kwargs):
        raise AssertionError("something was unpickled")

    for module, name in ((torch, "load"), (pickle, "load"), (pickle, "loads"), (pickle, "Unpickler")):
        monkeypatch.setattr(module, name, forbidden)
    assert lvm.load(path, model, AutoNormal(model), X).num_steps == 2


def header_of(path, **changes):
    """The file again, its header changed."""
    with safetensors.safe_open(path, framework="pt") as opened:
        header = json.loads(opened.metadata()["pyrolvm"])
    header.update(changes)
    safetensors.torch.save_file(safetensors.torch.load_file(path), path, {"pyrolvm": json.dumps(header)})


def test_files_of_other_kinds(path, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"there is no file '.*missing.safetensors'"):
        lvm.load(tmp_path / "missing.safetensors", mean_model)
    with pytest.raises(ValueError, match="'path' must be a file; got the folder"):
        lvm.load(tmp_path, mean_model)
    path.write_bytes(b"")
    with pytest.raises(ValueError, match="is not a file that a fit was saved to"):
        lvm.load(path, mean_model)
    torch.save({"a": torch.zeros(2)}, path)
    with pytest.raises(ValueError, match="is not a file that a fit was saved to"):
        lvm.load(path, mean_model)
    safetensors.torch.save_file({"a": torch.zeros(2)}, path)
    with pytest.raises(ValueError, match="is not a file that a fit was saved to: it has no header of this library"):
        lvm.load(path, mean_model)


def test_a_file_that_was_cut_short(path):
    fit(mean_model, None, X, num_steps=2).save(path)
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(ValueError, match="is not a file that a fit was saved to"):
        lvm.load(path, mean_model)


def test_a_newer_version(path):
    fit(mean_model, None, X, num_steps=2).save(path)
    header_of(path, version=2, future="unheard of")
    with pytest.raises(ValueError, match="has format version 2, and this version of pyrolvm reads up to 1. Upgrade it"):
        lvm.load(path, mean_model)


@pytest.mark.parametrize(
    "changes",
    [
        {"version": None},
        {"validation": [["first", 2]]},
        {"model": {"module": False, "constraints": {"mean": {"class": "os.system"}}}},
        {"model": {"module": False, "constraints": {"mean": {"class": "_Interval", "lower_bound": 0.0}}}},
        {"model": [1]},
    ],
)
def test_a_damaged_header(path, changes):
    fit(mean_model, None, X, num_steps=2).save(path)
    header_of(path, **changes)
    with pytest.raises(ValueError, match="is damaged: its header cannot be read"):
        lvm.load(path, mean_model)


def test_a_file_without_losses(path):
    fit(mean_model, None, X, num_steps=2).save(path)
    with safetensors.safe_open(path, framework="pt") as opened:
        metadata = opened.metadata()
    tensors = safetensors.torch.load_file(path)
    for changed in ({n: v for n, v in tensors.items() if n != "losses"}, {**tensors, "stranger": torch.zeros(1)}):
        safetensors.torch.save_file(changed, path, metadata)
        with pytest.raises(ValueError, match="is damaged"):
            lvm.load(path, mean_model)


def other_guide(name="slope", shape=()):
    def other(x):
        slope = pyro.param(name, torch.zeros(shape))
        scale = pyro.param("scale", torch.tensor(1.0), constraint=constraints.positive)
        with lvm.data_plate(x):
            pyro.sample("z", dist.Normal(slope.sum() * x, scale))

    return other


@pytest.mark.parametrize(
    ("saved", "given", "args", "message"),
    [
        (lambda: guide, lambda: None, (), "saved with a plain function as its guide; got no guide"),
        (lambda: guide, Mixed, (X,), "saved with a plain function as its guide; got a module as its guide"),
        (Mixed, lambda: guide, (X,), "saved with a module as its guide; got a plain function as its guide"),
        (
            lambda: guide,
            lambda: other_guide("s"),
            (X,),
            "the file has parameter 'slope' of the guide, and the pair given",
        ),
        (
            lambda: other_guide(),
            model_guide := (lambda: scale_guide),
            (X,),
            "the file has parameter 'slope' of the guide",
        ),
        (model_guide, lambda: guide, (X,), "the pair given has parameter 'slope' of the guide, and the file does not"),
        (
            lambda: guide,
            lambda: other_guide("slope", (2,)),
            (X,),
            r"parameter 'slope' of the guide has shape \(\) in the file, and \(2,\) in the pair given",
        ),
        (Encoder, Mixed, (X,), "the file has parameter '.*' of the guide, and the pair given does not"),
        (Encoder, lambda: Encoder(4), (), r"parameter '.*' of the guide has shape \(.*\) in the file, and \("),
        (Encoder, lambda: Encoder().float(), (), "of the guide in torch.float64, and the pair given in torch.float32"),
        (
            registering,
            lambda: registering(),
            (),
            "of a module that a function runs does not exist yet: .* Pass the programs' arg",
        ),
        (
            registering,
            lambda: scale_guide,
            (X,),
            "the file has parameter '.*' of a module that a function runs, and the pair",
        ),
        (
            lambda: AutoNormal(model),
            lambda: AutoNormal(model),
            (),
            "parameter 'locs.z_unconstrained' of the guide does not exist yet: .* Pass the programs' arguments",
        ),
        (
            lambda: AutoNormal(model),
            lambda: AutoNormal(model),
            (X[:5],),
            r"parameter 'locs.z_unconstrained' of the guide has shape \(12,\) in the file, and \(5,\) in the pair",
        ),
    ],
)
def test_another_pair(path, saved, given, args, message):
    fit(model, saved(), X, num_steps=2).save(path)
    program = given()
    before = {n: v.clone() for n, v in program.state_dict().items()} if isinstance(program, torch.nn.Module) else {}
    with pytest.raises(ValueError, match=message):
        lvm.load(path, model, program, *args)
    for name, value in before.items():
        assert torch.equal(program.state_dict()[name], value)


def scale_guide(x):
    scale = pyro.param("scale", torch.tensor(1.0), constraint=constraints.positive)
    with lvm.data_plate(x):
        pyro.sample("z", dist.Normal(x / 2, scale))


def test_an_error_of_the_run_on_the_side_comes_out_as_it_is(path):
    fit(model, guide, X, num_steps=2).save(path)
    with pytest.raises(TypeError, match="positional argument"):
        lvm.load(path, model, guide, X, X)
    assert len(pyro.get_param_store()) == 0
