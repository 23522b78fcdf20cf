"""Files that cannot be written, and files that are not accepted."""

import json
import pickle

import pyro
import pyro.distributions as dist
import pytest
import safetensors.torch
import torch
from fitting.pairs import Encoder, Mixed, X, fit, guide, mean_model, model, registering
from pyro.distributions import constraints
from pyro.infer.autoguide import AutoNormal

import pyrolvm as lvm
from pyrolvm.fitting import storage


@pytest.fixture
def path(tmp_path):
    return tmp_path / "fit.safetensors"


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
