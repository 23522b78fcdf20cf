"""Enumeration is exact where factors disagree by hundreds of nats."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import TraceEnum_ELBO

import pyrolvm as lvm
from pyrolvm.weights import logsumexp


def separated(dtype, distance):
    """Two components whose features disagree about which it is: each factor alone rules the other's out."""
    locs = torch.tensor([0.0, distance], dtype=dtype)
    x = torch.tensor([[0.0, distance, distance]], dtype=dtype)

    def model(x):
        shift = pyro.param("shift", torch.zeros((), dtype=dtype))
        with lvm.data_plate(x, dim=-2):
            z = pyro.sample("z", dist.Categorical(torch.ones(2, dtype=dtype) / 2), infer={"enumerate": "parallel"})
            pyro.sample("a", dist.Normal(locs[z] + shift, 1.0), obs=x[:, :1])
            with pyro.plate("features", 2, dim=-1):
                pyro.sample("b", dist.Normal(locs[z] + shift, 1.0), obs=x[:, 1:])

    def log_density(shift):
        return torch.logsumexp(math.log(0.5) + dist.Normal(locs + shift, 1.0).log_prob(x[0, :, None]).sum(0), -1)

    return model, x, log_density


@pytest.mark.parametrize(("dtype", "distance"), [(torch.float32, 20.0), (torch.float64, 60.0)])
def test_value_and_gradient_where_pyros_contraction_underflows(dtype, distance):
    model, x, log_density = separated(dtype, distance)
    shift = torch.zeros((), dtype=dtype, requires_grad=True)
    truth = log_density(shift)
    (slope,) = torch.autograd.grad(truth, shift)
    empty = lvm.guides.Empty()
    theirs = TraceEnum_ELBO(max_plate_nesting=2, strict_enumeration_warning=False)
    assert theirs.loss(model, empty, x) == math.inf
    loss = lvm.objectives.ELBO().differentiable_loss(model, empty, x)
    torch.testing.assert_close(-loss, truth)
    leaf = dict(pyro.get_param_store().named_parameters())["shift"]
    torch.testing.assert_close(-torch.autograd.grad(loss, leaf)[0], slope)


def test_logsumexp_of_impossible_rows_has_a_zero_gradient():
    x = torch.full((2, 3), -math.inf)
    x[1] = torch.tensor([0.0, 1.0, -math.inf])
    x.requires_grad_()
    value = logsumexp(x, 1)
    torch.testing.assert_close(value, torch.tensor([-math.inf, math.log(1 + math.e)]))
    value[1].backward()
    assert torch.isfinite(x.grad).all()
    torch.testing.assert_close(x.grad[1], torch.softmax(x[1].detach(), 0))


def test_summed_out_sites_need_one_scale():
    def model(x):
        with lvm.data_plate(x):
            z = pyro.sample("z", dist.Categorical(torch.ones(2) / 2), infer={"enumerate": "parallel"})
            with pyro.poutine.scale(scale=0.5):
                pyro.sample("x", dist.Normal(z.double(), 1.0), obs=x)

    with pytest.raises(ValueError, match="'x' and 'z' are summed out together|'z' and 'x' are summed out together"):
        lvm.log_weights(model, None, torch.zeros(3))


def test_a_scale_of_the_user_stays_inside_its_term():
    def model(x):
        with lvm.data_plate(x), pyro.poutine.scale(scale=0.5):
            pyro.sample("x", dist.Normal(0.0, 1.0), obs=x)

    x = torch.tensor([0.5, -1.0])
    weights = lvm.log_weights(model, None, x)
    torch.testing.assert_close(weights.local[0], 0.5 * dist.Normal(0.0, 1.0).log_prob(x))
    assert weights.scale == 1.0


def test_masked_rows_count_nothing():
    mask = torch.tensor([True, False, True])

    def model(x):
        with lvm.data_plate(x), pyro.poutine.mask(mask=mask):
            z = pyro.sample("z", dist.Categorical(torch.ones(4) / 4), infer={"enumerate": "parallel"})
            pyro.sample("x", dist.Normal(z.double(), 1.0), obs=x)

    x = torch.tensor([0.5, 100.0, -1.0])
    truth = torch.logsumexp(dist.Normal(torch.arange(4.0), 1.0).log_prob(x[:, None]) - math.log(4), -1)
    torch.testing.assert_close(lvm.log_weights(model, None, x).local[0], torch.where(mask, truth, 0.0))
