"""The Bayesian models as programs: particles at once, minibatches, recorded steps, dtypes, and what they refuse."""

import math

import pyro
import pytest
import torch
from models.posteriors import NAMES, log_joint, setting
from pyro import poutine
from pyro.infer import SVI, Trace_ELBO

import pyrolvm as lvm
from pyrolvm.models import (
    autoregression,
    garch,
    gp_poisson_regression,
    item_response,
    linear_regression,
    logistic_regression,
    ordered_mixture,
    two_state_hmm,
)

EACH = pytest.mark.parametrize("name", NAMES)
GUIDES = pytest.mark.parametrize("family", [lvm.guides.MeanField, lvm.guides.FullRank])
WITH_ROWS = ("linear_regression", "logistic_regression", "ordered_mixture")


@EACH
@GUIDES
def test_is_a_right_pair(name, family):
    model, args, _ = setting(name)
    report = lvm.check(model, family(model), *args)
    assert report.ok, str(report)


@EACH
def test_particles_at_once_are_those_one_by_one(name):
    model, args, _ = setting(name)
    guide = lvm.guides.MeanField(model)
    guide(*args)
    drawn = lvm.log_weights(model, guide, *args, num_particles=3, seed=1)
    for k in range(3):
        values = {site: value[k].detach() for site, value in drawn.latents.items()}
        found = sum(
            (0.0 if term.global_ is None else term.global_[k]) + (0.0 if term.local is None else term.local[k].sum())
            for term in (drawn.log_likelihood, drawn.log_prior)
        )
        assert found.item() == pytest.approx(log_joint(model, args, values).item(), rel=1e-9)


@pytest.mark.parametrize("name", WITH_ROWS)
def test_batches_add_up_to_the_whole(name):
    model, args, _ = setting(name)
    guide = lvm.guides.MeanField(model)
    guide(*args)
    whole = lvm.log_weights(model, guide, *args, num_particles=2, seed=0)
    num_data = len(args[0])
    rows = torch.arange(num_data).split(num_data // 3 + 1)
    parts = []
    for batch in rows:
        with lvm.minibatch(num_data, batch):
            part = lvm.log_weights(model, guide, *(value[batch] for value in args), num_particles=2, seed=0)
        assert part.scale == pytest.approx(num_data / len(batch))
        parts.append(part.local)
    torch.testing.assert_close(torch.cat(parts, 1), whole.local)


RECORDED = ("autoregression", "gp_poisson_regression", "ordered_mixture", "two_state_hmm")


@pytest.mark.parametrize(
    "name", [name if name in RECORDED else pytest.param(name, marks=pytest.mark.slow) for name in NAMES]
)
def test_steps_can_be_recorded(name, interpreted):
    """What is recorded gives the losses of the programs themselves."""
    model, args, _ = setting(name)
    args = tuple(value[:12] for value in args)
    losses = []
    for compiled in (True, False):
        pyro.clear_param_store()
        guide = lvm.guides.MeanField(model)
        options = {"num_steps": 3, "seed": 0, "progress": False, "compile": compiled}
        result = lvm.fit(model, guide, args, learning_rate=1e-3, **options)
        losses.append(result.losses)
        assert result.execution.startswith("compiled" if compiled else "eager"), result.execution
    torch.testing.assert_close(*losses)


@EACH
def test_under_pyros_svi(name):
    model, args, reference = setting(name)
    pyro.clear_param_store()
    start = {site: torch.tensor(value) for site, value in reference.mean.items()}
    guide = lvm.guides.MeanField(model, init_loc_fn=pyro.infer.autoguide.init_to_value(values=start))
    elbo = Trace_ELBO(num_particles=4, vectorize_particles=True)
    svi = SVI(model, guide, pyro.optim.Adam({"lr": 1e-3}), elbo)
    assert all(math.isfinite(svi.step(*args)) for _ in range(3))


@EACH
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dtype_and_device_are_the_datas(name, dtype, device):
    model, args, _ = setting(name)
    args = tuple(value.to(device, dtype) for value in args)
    nodes = poutine.trace(model).get_trace(*args).nodes
    plates = ("data", "persons", "items")
    values = [node["value"] for name, node in nodes.items() if node["type"] == "sample" and name not in plates]
    assert {(value.dtype, value.device.type) for value in values} == {(dtype, device.type)}
    assert nodes["_RETURN"]["value"].dtype == dtype


@EACH
def test_integers_and_arrays_are_taken(name):
    model, args, reference = setting(name)
    for given in (reference.arguments, (args[0].long(), *args[1:])):
        assert poutine.trace(model).get_trace(*given).nodes["_RETURN"]["value"].dtype == torch.float64


def test_one_datum_and_one_column():
    one, x = torch.ones(1), torch.ones(1, 1)
    programs = (garch, two_state_hmm, ordered_mixture)
    for run in [poutine.trace(program).get_trace(one) for program in programs]:
        assert run.log_prob_sum().isfinite()
    for program in (linear_regression, logistic_regression):
        assert poutine.trace(program).get_trace(one, x).log_prob_sum().isfinite()
    assert poutine.trace(gp_poisson_regression).get_trace(one, one).log_prob_sum().isfinite()
    assert poutine.trace(item_response).get_trace(x).log_prob_sum().isfinite()


def test_counts_at_one_place_twice():
    """Duplicated places make the covariance singular but for the 1e-10 on its diagonal."""
    run = poutine.trace(gp_poisson_regression).get_trace(torch.tensor([3.0, 4.0, 1.0]), torch.tensor([1.0, 1.0, 2.0]))
    f = run.nodes["f"]["value"]
    assert run.log_prob_sum().isfinite()
    assert abs(f[0] - f[1]) < 1e-3


VECTORS = (autoregression, garch, ordered_mixture, two_state_hmm)


@pytest.mark.parametrize("program", VECTORS)
def test_refused_series(program):
    with pytest.raises(ValueError, match=r"'y' must have shape \(N,\), N at least 1; got \(3, 1\)\. Use y\.reshape"):
        program(torch.zeros(3, 1))
    with pytest.raises(ValueError, match=r"'y' must have shape \(N,\), N at least 1; got \(0,\)\. Pass one row"):
        program(torch.zeros(0))
    with pytest.raises(TypeError, match="'y' must be a tensor or an array of numbers; got list with dtype <U1"):
        program(["a", "b"])
    for size in (0, -1):
        with pytest.raises(ValueError, match=f"'size' must be at least 1; got {size}"):
            program(size=size)


@pytest.mark.parametrize("program", [linear_regression, logistic_regression, gp_poisson_regression])
def test_refused_covariates(program):
    shape = r"\(N,\)" if program is gp_poisson_regression else r"\(N, D\)"
    good = torch.zeros(3) if program is gp_poisson_regression else torch.zeros(3, 2)
    with pytest.raises(ValueError, match=r"'y' must have shape \(N,\), N at least 1; got \(3, 1\)"):
        program(torch.zeros(3, 1), good)
    with pytest.raises(ValueError, match=rf"'x' must have shape {shape}, none of them 0; got \(3, 2, 1\)\. Use x\."):
        program(torch.zeros(3), torch.zeros(3, 2, 1))
    with pytest.raises(ValueError, match="'x' must have a row for each of the 4 entries of 'y'; got 3 rows"):
        program(torch.zeros(4), good)
    with pytest.raises(TypeError, match=r"'x' must hold real numbers; got torch\.complex64\. Pass x\.real"):
        program(torch.zeros(3), good.to(torch.complex64))


def test_refused_answers_and_lags():
    with pytest.raises(ValueError, match=r"'y' must have shape \(N, D\), N at least 1; got \(3,\)"):
        item_response(torch.zeros(3))
    with pytest.raises(ValueError, match="'num_items' must be at least 1; got 0"):
        item_response(num_items=0)
    with pytest.raises(ValueError, match="'y' must be longer than num_lags=5; got 5. Pass fewer lags"):
        autoregression(torch.zeros(5))
    with pytest.raises(ValueError, match=r"'size' must be longer than num_lags=2; got 2\. Pass a larger one"):
        autoregression(num_lags=2, size=2)
    with pytest.raises(TypeError, match=r"'num_lags' must be an integer; got 1\.5"):
        autoregression(torch.zeros(5), 1.5)


@pytest.mark.parametrize("value", [0, -1.0, math.inf, math.nan])
def test_refused_scale(value):
    with pytest.raises(ValueError, match=f"'sigma1' must be positive and finite; got {value}"):
        garch(torch.zeros(3), value)


def test_refused_kind_of_scale():
    with pytest.raises(TypeError, match="'sigma1' must be a number; got '1'"):
        garch(torch.zeros(3), "1")


@pytest.mark.parametrize(
    ("program", "args", "match"),
    [
        (logistic_regression, ([0.0, 2.0], [[1.0], [2.0]]), "'y' must hold zeros and ones; row 1 holds 2. Code"),
        (item_response, ([[0.0, 1.0], [0.5, 1.0]],), "'y' must hold zeros and ones; row 1, column 0 holds 0.5"),
        (gp_poisson_regression, ([1.0, 2.5], [0.0, 1.0]), r"'y' must hold counts, 0, 1, 2, \.\.\.; row 1 holds 2.5"),
        (gp_poisson_regression, ([-1.0, 2.0], [0.0, 1.0]), r"row 0 holds -1\. Pass what was counted, not a rate"),
    ],
)
def test_values_that_fit_and_compare_refuse(program, args, match):
    args = tuple(torch.tensor(value) for value in args)
    with pytest.raises(ValueError, match=match):
        lvm.fit(program, lvm.guides.MeanField(program), args, num_steps=1, progress=False)
    with pytest.raises(ValueError, match=match):
        lvm.compare(lambda: program, args, guides={"mean_field": lvm.guides.MeanField}, seeds=(0,), progress=False)
    with pytest.raises(ValueError, match="within the support"):  # Pyro's own words, where the program runs by itself
        poutine.trace(program).get_trace(*args).compute_log_prob()
