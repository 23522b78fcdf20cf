"""The guide that draws latents from the data upward, held to the posterior of a linear Gaussian chain."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import SVI, Trace_ELBO

import pyrolvm as lvm

pytestmark = pytest.mark.filterwarnings("ignore::pyrolvm.evidence.evidence.DoubtfulEvidence")

FAMILIES = ["diagonal", "full_rank", "flow"]
D64 = {"dtype": torch.float64}
UP = torch.tensor([[0.8], [-1.1]], **D64)  # z3 -> z2
MIDDLE = torch.tensor([[0.9, 0.5], [-0.4, 1.2]], **D64)  # z2 -> z1
DOWN = torch.tensor([[0.5, 1.0], [-1.0, 0.2], [0.3, 0.8], [0.7, -0.6]], **D64)  # z1 -> x
SHIFT = torch.tensor([0.3, -0.2], **D64)


def chain(x):
    """z3 ~ N(0, 1), z2 ~ N(UP z3, .5^2), z1 ~ N(MIDDLE z2 + SHIFT, .7^2), x ~ N(DOWN z1, .6^2)."""
    with lvm.data_plate(x):
        z3 = pyro.sample("z3", dist.Normal(torch.zeros(1), 1.0).to_event(1))
        z2 = pyro.sample("z2", dist.Normal(z3 @ UP.mT, 0.5).to_event(1))
        z1 = pyro.sample("z1", dist.Normal(z2 @ MIDDLE.mT + SHIFT, 0.7).to_event(1))
        pyro.sample("x", dist.Normal(z1 @ DOWN.mT, 0.6).to_event(1), obs=x)


def joint():
    """Mean and covariance of (x, z1, z2, z3)."""
    three = torch.eye(1)
    two = UP @ UP.mT + 0.25 * torch.eye(2)
    one = MIDDLE @ two @ MIDDLE.mT + 0.49 * torch.eye(2)
    data = DOWN @ one @ DOWN.mT + 0.36 * torch.eye(4)
    rows = [
        [data, DOWN @ one, DOWN @ MIDDLE @ two, DOWN @ MIDDLE @ UP],
        [None, one, MIDDLE @ two, MIDDLE @ UP],
        [None, None, two, UP],
        [None, None, None, three],
    ]
    for i in range(4):
        for j in range(i):
            rows[i][j] = rows[j][i].mT
    mean = torch.cat([DOWN @ SHIFT, SHIFT, torch.zeros(3)])
    return mean, torch.cat([torch.cat(row, 1) for row in rows])


SLICES = {"x": slice(0, 4), "z1": slice(4, 6), "z2": slice(6, 8), "z3": slice(8, 9)}


def log_evidence(x):
    mean, covariance = joint()
    return dist.MultivariateNormal(mean[:4], covariance[:4, :4]).log_prob(x)


def simulated(n=30):
    with lvm.seeding.seeded(0):
        mean, covariance = joint()
        return dist.MultivariateNormal(mean, covariance).sample((n,))[:, :4]


def exact_guide(x, model=chain):
    """Each head is the regression of a latent on the data and the latents drawn before it."""
    guide = lvm.guides.BottomUp(model, torch.nn.Identity(), (), "full_rank")
    guide(x)
    mean, covariance = joint()
    for head, name in zip(guide.heads.values(), ("z1", "z2", "z3"), strict=True):
        own, known = SLICES[name], slice(0, SLICES[name].start)
        slope = torch.linalg.solve(covariance[known, known], covariance[known, own]).mT
        factor = torch.linalg.cholesky(covariance[own, own] - slope @ covariance[known, own])
        below = torch.tril_indices(*factor.shape, -1)
        raw = (factor.diagonal() - 1e-6).expm1().log()
        with torch.no_grad():
            head[0].weight.zero_()
            head[0].weight[: len(slope)] = slope
            head[0].bias.copy_(torch.cat([mean[own] - slope @ mean[known], raw, factor[below[0], below[1]]]))
    return guide


@pytest.mark.parametrize("vectorize", [True, False])
def test_it_holds_the_posterior_of_a_linear_gaussian_chain(vectorize):
    """KL = 0: every weight is log p(x), whatever is drawn."""
    x = simulated()
    guide = exact_guide(x)
    weights = lvm.log_weights(chain, guide, x, num_particles=5, seed=0)
    torch.testing.assert_close(weights.local, log_evidence(x).expand(5, -1), rtol=0, atol=1e-10)
    bound = lvm.objectives.IWELBO(3, vectorize_particles=vectorize).bound(chain, guide, x, seed=0)
    torch.testing.assert_close(bound, log_evidence(x), rtol=0, atol=1e-10)


def test_at_the_posterior_path_gradients_vanish():
    """Of STL and DReG, for each draw; the ELBO's own gradient is zero in the mean only."""
    x = simulated()
    guide = exact_guide(x)
    largest = {}
    for objective in (lvm.objectives.STL(2), lvm.objectives.DReG(4), lvm.objectives.ELBO(2)):
        loss = objective.differentiable_loss(chain, guide, x)
        gradients = torch.autograd.grad(loss, list(guide.heads.parameters()))
        largest[type(objective).__name__] = max(float(g.abs().max()) for g in gradients)
    assert largest["STL"] < 1e-9
    assert largest["DReG"] < 1e-9
    assert largest["ELBO"] > 1


@pytest.mark.parametrize("objective", [lvm.objectives.STL, lvm.objectives.DReG])
def test_path_gradients_have_the_mean_of_plain_ones(objective):
    """Away from the posterior: DReG against IWELBO, STL against the ELBO, with the same number of particles."""
    x = simulated(4)
    guide = exact_guide(x)
    with torch.no_grad():
        for parameter in guide.heads.parameters():
            parameter.add_(0.1)
    plain = {lvm.objectives.STL: lvm.objectives.ELBO, lvm.objectives.DReG: lvm.objectives.IWELBO}[objective]
    means, errors = zip(*(mean_gradient(kind(3), guide, x) for kind in (objective, plain)), strict=True)
    assert ((means[0] - means[1]).abs() < 4.5 * (errors[0] ** 2 + errors[1] ** 2).sqrt() + 1e-9).all()


def mean_gradient(objective, guide, x, repeats=80):
    rows = []
    for seed in range(repeats):
        torch.manual_seed(seed)
        loss = objective.differentiable_loss(chain, guide, x)
        rows.append(torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(guide.heads.parameters()))]))
    stacked = torch.stack(rows)
    return stacked.mean(0), stacked.std(0) / repeats**0.5


def fitted(guide, x, **options):
    options = {"learning_rate": lambda step: 0.08 * 0.988**step, "num_steps": 300, "seed": 0, **options}
    objective = lvm.objectives.STL(4)
    return lvm.fit(guide._model[0], guide, x, objective=objective, compile=False, progress=False, **options)


def mean_gap(guide, x, truth):
    """Mean of log p(x_n) less the ELBO, with its standard error."""
    weights = lvm.log_weights(guide._model[0], guide, x, num_particles=400, seed=1).local
    gaps = (truth - weights).mean(1)
    return gaps.mean(), gaps.std() / 400**0.5


def test_a_fit_reaches_the_posterior():
    x = simulated()
    guide = lvm.guides.BottomUp(chain, torch.nn.Linear(4, 6), (), "full_rank")
    fitted(guide, x)
    gap, error = mean_gap(guide, x, log_evidence(x))
    assert -4 * error < gap < 0.01


SCALES = torch.tensor([1.0, 0.4], **D64)
SLOPE = torch.tensor([1.0, -0.5, 0.8], **D64)


def pair(x):
    """z2 ~ N(0, 1), z1 ~ N(z2, .4^2), x ~ N(SLOPE z1, 1): one number each."""
    with lvm.data_plate(x):
        z2 = pyro.sample("z2", dist.Normal(torch.zeros(()), SCALES[0]))
        z1 = pyro.sample("z1", dist.Normal(z2, SCALES[1]))
        pyro.sample("x", dist.Normal(z1.unsqueeze(-1) * SLOPE, 1.0).to_event(1), obs=x)


def test_it_leaves_no_gap_where_independent_latents_leave_one():
    """With one number a layer the diagonal family is enough; `Amortized` keeps 0.5 (sum log M_ii - log det M)."""
    precision = torch.tensor([[SLOPE @ SLOPE + 1 / 0.16, -1 / 0.16], [-1 / 0.16, 1 + 1 / 0.16]])  # of z1, z2 given x
    gap_of_independence = 0.5 * (precision.diagonal().log().sum() - torch.logdet(precision))
    covariance = 1.16 * torch.outer(SLOPE, SLOPE) + torch.eye(3)
    marginal = dist.MultivariateNormal(torch.zeros(3), covariance)
    with lvm.seeding.seeded(0):
        x = marginal.sample((40,))
    gaps = {}
    for make in (
        lambda: lvm.guides.BottomUp(pair, torch.nn.Linear(3, 4), ()),
        lambda: lvm.guides.Amortized(pair, torch.nn.Linear(3, 4)),
    ):
        guide = make()
        fitted(guide, x)
        gaps[type(guide)], error = mean_gap(guide, x, marginal.log_prob(x))
        assert error < 0.02
    assert -0.01 < gaps[lvm.guides.BottomUp] < 0.01
    assert abs(gaps[lvm.guides.Amortized] - gap_of_independence) < 4 * error + 0.01
    assert gap_of_independence > 0.5


@pytest.mark.parametrize("family", FAMILIES)
def test_supports(family):
    """Nothing is observed: log p = 0, and the weights average to one."""

    def model(x):
        with lvm.data_plate(x):
            a = pyro.sample("a", dist.LogNormal(torch.zeros(2), 0.5).to_event(1))
            b = pyro.sample("b", dist.Dirichlet(1 + a.sum(-1, keepdim=True) * torch.ones(3)))
            pyro.sample("c", dist.Normal(b[..., 0], 1.0))

    x = torch.zeros(2, 1)
    with lvm.seeding.seeded(1):
        guide = lvm.guides.BottomUp(model, torch.nn.Linear(1, 3), (4,), family)
        guide(x)
    report = lvm.check(model, guide, x)
    assert report.ok, str(report)
    weights = lvm.log_weights(model, guide, x, num_particles=4000, seed=0).local.exp()
    assert ((weights.mean(0) - 1).abs() < 5 * weights.std(0) / 4000**0.5).all()


LEVELS = torch.tensor([[-1.5, 0.2, 1.0], [0.4, -0.8, 2.0]], **D64)


def discrete_chain(x):
    """b ~ Bernoulli(.3), c ~ Categorical, by b, x ~ N(LEVELS[b, c], .7^2)."""
    with lvm.data_plate(x):
        b = pyro.sample("b", dist.Bernoulli(torch.tensor(0.3)))
        c = pyro.sample("c", dist.Categorical(torch.softmax(LEVELS, -1)[b.long()]))
        pyro.sample("x", dist.Normal(LEVELS[b.long(), c], 0.7), obs=x[:, 0])


def discrete_joint(x):
    """log p(b, c, x), shape (N, 2, 3)."""
    prior = torch.tensor([0.7, 0.3]).log()[:, None] + torch.log_softmax(LEVELS, -1)
    return prior + dist.Normal(LEVELS, 0.7).log_prob(x[:, :, None])


def test_it_holds_the_posterior_of_discrete_latents():
    """p(c | x) and p(b | c, x) of one datum: every weight is log p(x), by enumeration; c is given as a one-hot."""
    x = torch.tensor([[0.3]])
    joint = discrete_joint(x)
    guide = lvm.guides.BottomUp(discrete_chain, torch.nn.Linear(1, 2), ())
    guide(x)
    with torch.no_grad():
        for head in guide.heads.values():
            head[0].weight.zero_()
        guide.heads["head0"][0].bias.copy_(joint[0].logsumexp(0))
        guide.heads["head1"][0].bias.zero_()
        guide.heads["head1"][0].weight[0, 2:] = joint[0, 1] - joint[0, 0]
    weights = lvm.log_weights(discrete_chain, guide, x, num_particles=50, seed=0)
    torch.testing.assert_close(weights.local, joint.logsumexp((1, 2)).expand(50, 1), rtol=0, atol=1e-12)
    assert len(set(zip(*(weights.latents[n].flatten().tolist() for n in "bc"), strict=True))) > 2


def test_weights_of_discrete_latents_average_to_the_evidence():
    x = torch.tensor([[-1.0], [0.3], [0.8], [2.1]])
    guide = lvm.guides.BottomUp(discrete_chain, torch.nn.Linear(1, 4), (8,))
    options = {"num_steps": 20, "seed": 0, "progress": False, "compile": False}
    lvm.fit(discrete_chain, guide, x, objective=lvm.objectives.VIMCO(4), **options)
    weights = lvm.log_weights(discrete_chain, guide, x, num_particles=10_000, seed=0).local.exp()
    truth = discrete_joint(x).logsumexp((1, 2)).exp()
    assert ((weights.mean(0) - truth).abs() < 4.5 * weights.std(0) / 100).all()


def test_latents_are_drawn_from_the_last_to_the_first():
    x = simulated(5)
    guide = lvm.guides.BottomUp(chain, torch.nn.Linear(4, 6))
    trace = poutine.trace(guide).get_trace(x)
    assert [name for name in trace.nodes if name.startswith("z")] == ["z1", "z2", "z3"]
    assert [head.num_inputs for head in guide.heads.values()] == [6, 8, 10]
    assert [value.shape for value in guide(x).values()] == [(5, 2), (5, 2), (5, 1)]


def test_a_plate_further_left():
    """The data plate at -2: weights are those of the same model at -1."""

    def model(x):
        with lvm.data_plate(x, dim=-2):
            z2 = pyro.sample("z2", dist.Normal(torch.zeros(1, 2), 1.0).to_event(1))
            z1 = pyro.sample("z1", dist.Normal(z2, 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z1, 1.0).to_event(1), obs=x.unsqueeze(-2))

    x = torch.tensor([[0.5, -1.0], [2.0, 0.3], [0.1, 0.1]])
    with lvm.seeding.seeded(1):
        guide = lvm.guides.BottomUp(model, torch.nn.Linear(2, 3), (4,), "full_rank")
        guide(x)
    truth = dist.Normal(0.0, 3**0.5).log_prob(x).sum(-1)
    found = lvm.evidence.importance(model, guide, x, num_particles=20_000, seed=0)
    assert ((found.log_evidence - truth).abs() < 4.5 * found.standard_error).all()


@pytest.mark.parametrize("size", [1, 7])
def test_any_batch(size):
    x, rows = simulated(size), torch.arange(size) + 40
    guide = lvm.guides.BottomUp(chain, torch.nn.Linear(4, 6))
    with lvm.minibatch(50, rows):
        model, bound = lvm.bind(chain, guide, x)
        weights = lvm.log_weights(model, bound, x, num_particles=3)
    assert weights.local.shape == (3, size)
    assert weights.scale == 50 / size


def test_under_plain_pyro():
    x = simulated(20)
    guide = lvm.guides.BottomUp(chain, torch.nn.Linear(4, 6), family="full_rank")
    elbo = Trace_ELBO(num_particles=2, vectorize_particles=True, max_plate_nesting=1)
    svi = SVI(chain, guide, pyro.optim.Adam({"lr": 0.02}), elbo)
    losses = [svi.step(x) for _ in range(60)]
    assert sum(losses[-20:]) < sum(losses[:20])


def test_captured_steps_are_the_eager_ones(interpreted):
    found = []
    for compile in (False, True):
        torch.manual_seed(1)
        guide = lvm.guides.BottomUp(chain, torch.nn.Linear(4, 6))
        options = {"num_steps": 5, "batch_size": 6, "compile": compile, "seed": 0, "progress": False}
        found.append(
            (lvm.fit(chain, guide, simulated(20), objective=lvm.objectives.DReG(3), **options), guide.state_dict())
        )
    (eager, expected), (captured, parameters) = found
    assert captured.execution.startswith("compiled")
    torch.testing.assert_close(captured.losses, eager.losses)
    torch.testing.assert_close(parameters, expected)


@pytest.mark.parametrize("family", ["diagonal", "full_rank"])
def test_saved_and_loaded(family, tmp_path):
    x = simulated(20)

    def make():
        with lvm.seeding.seeded(3):
            return lvm.guides.BottomUp(chain, torch.nn.Linear(4, 6), family=family)

    result = lvm.fit(chain, make(), x, num_steps=3, seed=0, compile=False, progress=False)
    result.save(tmp_path / "fit")
    again = lvm.load(tmp_path / "fit", chain, make(), x)
    for name in ("z1", "z3"):
        found, expected = (r.sample(3, x, seed=1)[name] for r in (again, result))
        torch.testing.assert_close(found, expected)


def test_float32_and_further_arguments():
    x = simulated(8).float()
    torch.set_default_dtype(torch.float32)

    def model(x, scale):
        with lvm.data_plate(x):
            z2 = pyro.sample("z2", dist.Normal(torch.zeros(2), scale).to_event(1))
            z1 = pyro.sample("z1", dist.Normal(z2, 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z1 @ DOWN.float().mT, 1.0).to_event(1), obs=x)

    for family in FAMILIES:
        guide = lvm.guides.BottomUp(model, torch.nn.Linear(4, 6), family=family)
        weights = lvm.log_weights(*lvm.bind(model, guide, x, 2.0), x, 2.0, num_particles=2)
        assert weights.local.dtype == torch.float32
        assert weights.local.isfinite().all()


def test_refusals():
    x = simulated(3)
    with pytest.raises(ValueError, match="'family' must be one of .*; got 'full-rank'. Did you mean 'full_rank'"):
        lvm.guides.BottomUp(chain, torch.nn.Linear(4, 6), family="full-rank")
    with pytest.raises(ValueError, match="family 'full_rank' draws continuous latents; discrete here: 'b', 'c'"):
        lvm.guides.BottomUp(discrete_chain, torch.nn.Linear(1, 4), family="full_rank")(x[:, :1])
    with pytest.raises(TypeError, match="'encoder' must be a module that maps data to features; got 3"):
        lvm.guides.BottomUp(chain, 3)
    with pytest.raises(TypeError, match="BottomUp needs the data as its first argument, a tensor; got NoneType"):
        lvm.guides.BottomUp(chain, torch.nn.Linear(4, 6))()
    with pytest.raises(ValueError, match=r"'encoder' must give shape \(3, H\); got \(12,\)"):
        lvm.guides.BottomUp(chain, torch.nn.Flatten(0))(x)
    with pytest.raises(TypeError, match="'encoder' must give a tensor of features, .*; got tuple"):
        lvm.guides.BottomUp(chain, lambda x: (x, x))(x)
    with pytest.raises(ValueError, match=r"does not take data of .*, torch.int64: .* Pass the data as floats"):
        lvm.guides.BottomUp(chain, torch.nn.Linear(4, 6))(x.long())
    with pytest.raises(ValueError, match=r"data of .*, torch.float64: .* Pass x.to\(torch.float32\), or encoder"):
        lvm.guides.BottomUp(chain, torch.nn.Linear(4, 6).float())(x)
    with pytest.raises(ValueError, match=r"data of shape \(3, 4\), .* cannot be multiplied .* Build one for such data"):
        lvm.guides.BottomUp(chain, torch.nn.Linear(3, 6))(x)
    with pytest.raises(TypeError, match="'hidden' must be a sequence of widths; got 64"):
        lvm.guides.BottomUp(chain, torch.nn.Linear(4, 6), 64)(x)
    with pytest.raises(ValueError, match="'hidden' must be at least 1; got 0"):
        lvm.guides.BottomUp(chain, torch.nn.Linear(4, 6), (0,))(x)
    with pytest.raises(ValueError, match="BottomUp guides latents inside the data plate, and the model has none"):
        lvm.guides.BottomUp(lambda x: pyro.sample("m", dist.Normal(0.0, 1.0)), torch.nn.Linear(4, 6))(x)
    with pytest.raises(ValueError, match="parameter 'bottom_up.z3' does not exist"):
        lvm.evidence.importance(chain, lvm.guides.BottomUp(chain, torch.nn.Linear(4, 6)), x)
