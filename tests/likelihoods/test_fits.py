"""VAEs with each likelihood: right pairs, the same fit compiled, trained under Pyro's own SVI."""

import pyro
import pytest
import torch
from likelihoods.kinds import KINDS, NUM_FEATURES
from pyro.infer import SVI, Trace_ELBO

import pyrolvm as lvm
from pyrolvm.likelihoods import Autoregressive, Bernoulli, Masked
from pyrolvm.nn import MLP, ConvDecoder, ConvEncoder, FillMissing, Map


def autoregressive(dropout=0.0):
    return Autoregressive(NUM_FEATURES, 5, [8], dropout=dropout)


def holes(x):
    return x.masked_fill(torch.rand(x.shape, generator=torch.Generator().manual_seed(2)) < 0.3, float("nan"))


CASES = {
    **KINDS,
    "autoregressive": autoregressive,
    "autoregressive, dropout": lambda: autoregressive(0.3),
    "missing bits": lambda: Masked(KINDS["Bernoulli"].make()),
    "missing counts": lambda: Masked(KINDS["negative binomial, a dispersion for each feature"].make()),
}
EACH = pytest.mark.parametrize("name", list(CASES))
FAST = {"categorical", "autoregressive, dropout", "missing bits", "missing counts"}


def data_of(name):
    kind = {"missing counts": "negative binomial", "missing bits": "Bernoulli"}.get(name, name)
    x = KINDS.get(kind, KINDS["Bernoulli"]).given(24)[1]
    return holes(x) if name.startswith("missing") else x


def pair(name):
    """Model and guide; the decoder of the missing bits drops hidden units in training."""
    torch.manual_seed(0)
    kind = CASES[name]
    likelihood = kind() if callable(kind) else kind.make()
    dropout = 0.2 if name == "missing bits" else 0.0
    decoder = MLP(2, [8], likelihood.num_outputs(NUM_FEATURES), torch.nn.Softplus, dropout=dropout)
    model = lvm.models.VAE(2, decoder, likelihood)
    first = FillMissing() if name.startswith("missing") else Map(torch.asinh)
    width = NUM_FEATURES * (1 + name.startswith("missing"))
    encoder = torch.nn.Sequential(first, MLP(width, [8], 8, torch.nn.Softplus))
    return model, lvm.guides.Amortized(model, encoder)


@pytest.mark.parametrize("name", [pytest.param(n, marks=[] if n in FAST else pytest.mark.slow) for n in CASES])
def test_captured_steps_are_the_eager_ones(name, interpreted):
    x, fits = data_of(name), []
    for compile in (False, True):
        model, guide = pair(name)
        assert lvm.check(model, guide, x).ok
        fits.append(lvm.fit(model, guide, x, num_steps=8, batch_size=12, seed=0, progress=False, compile=compile))
    assert fits[1].execution.startswith("compiled")
    torch.testing.assert_close(fits[1].losses, fits[0].losses)
    torch.testing.assert_close(fits[1].model.state_dict(), fits[0].model.state_dict())


@EACH
def test_pyros_svi_trains_every_parameter(name):
    (model, guide), x = pair(name), data_of(name)
    guide(x)
    before = {key: p.detach().clone() for key, p in [*model.named_parameters(), *guide.named_parameters()]}
    elbo = Trace_ELBO(num_particles=4, vectorize_particles=True, max_plate_nesting=1)
    svi = SVI(model, guide, pyro.optim.Adam({"lr": 1e-2}), elbo)
    losses = [svi.step(x) for _ in range(40)]
    assert sum(losses[-10:]) < sum(losses[:10])
    assert all((p != before[key]).any() for key, p in [*model.named_parameters(), *guide.named_parameters()])


@EACH
def test_the_program_draws_data_that_the_model_takes(name):
    model, _ = pair(name)
    for x in (model(size=50), model.sample(50, seed=0)[0]):
        assert x.shape == (50, NUM_FEATURES)
        assert x.dtype == torch.get_default_dtype()
        model.check_data(x)
    float32 = model.float()
    assert float32(size=3).dtype == torch.float32
    assert float32(data_of(name)).dtype == torch.float32


def test_images_by_convolutions(interpreted):
    x, fits = (lvm.datasets.digits().x[:20] > 8).astype(float), []
    for compile in (False, True):
        torch.manual_seed(0)
        model = lvm.models.VAE(2, ConvDecoder(2, [4, 3], (8, 8), activation=torch.nn.Softplus), Bernoulli())
        encoder = ConvEncoder((8, 8), [3, 4], 8, activation=torch.nn.Softplus)
        guide = lvm.guides.Amortized(model, encoder)
        options = {"num_steps": 8, "batch_size": 10, "seed": 0, "progress": False, "compile": compile}
        fits.append(lvm.fit(model, guide, x, objective=lvm.objectives.IWELBO(3), **options))
    assert fits[1].execution.startswith("compiled")
    torch.testing.assert_close(fits[1].losses, fits[0].losses)


@pytest.mark.parametrize(
    ("decoder", "likelihood", "encoder", "x", "match"),
    [
        (
            lambda: ConvDecoder(2, [4], (4, 4)),
            Bernoulli,
            lambda: ConvEncoder((4, 4), [4], 8),
            torch.zeros(3, 9),
            r"'x' has 9 features, shape \(3, 9\), which take 9 outputs of the decoder; it has 16\. Build the",
        ),
        (
            lambda: ConvDecoder(2, [4], (4, 4)),
            Bernoulli,
            lambda: ConvEncoder((4, 4), [4], 8),
            torch.zeros(3, 4, 4),
            r"'x' must have shape \(N, D\); got \(3, 4, 4\)\. Use x\.reshape\(len\(x\), -1\)\.",
        ),
        (
            lambda: ConvDecoder(2, [4], (4, 4)),
            Bernoulli,
            lambda: ConvEncoder((5, 5), [4], 8),
            torch.zeros(3, 16),
            r"the input of the ConvEncoder must have shape \(\.\.\., 25\), images of \(5, 5\); got \(3, 16\)",
        ),
        (
            lambda: ConvDecoder(2, [4], (4, 4)),
            KINDS["heteroscedastic Gaussian"].make,
            lambda: ConvEncoder((4, 4), [4], 8),
            torch.zeros(3, 16),
            r"which take 32 outputs of the decoder, 2 for each; it has 16",
        ),
        (
            lambda: MLP(2, [4], 3),
            KINDS["categorical"].make,
            lambda: MLP(3, [4], 4),
            torch.zeros(3, 3),
            r"which take 12 outputs of the decoder, 4 for each; it has 3",
        ),
        (
            lambda: MLP(2, [4], 5),
            autoregressive,
            lambda: MLP(4, [4], 4),
            torch.zeros(3, 4),
            r"is for 3 features; got data with 4",
        ),
        (
            lambda: MLP(2, [4], 3),
            KINDS["Poisson"].make,
            lambda: MLP(3, [4], 4),
            torch.full((3, 3), -1.0),
            "'x' must hold counts, .* row 0, column 0 holds -1",
        ),
        (
            lambda: MLP(2, [4], 3),
            Bernoulli,
            lambda: MLP(3, [4], 4),
            torch.full((3, 3), 7.0),
            r"must hold only 0 and 1 for likelihoods\.Bernoulli; got values from 7 to 7",
        ),
    ],
    ids=[
        "image size",
        "images that are not rows",
        "encoder's image size",
        "two outputs",
        "K outputs",
        "bits in order",
        "counts",
        "bits",
    ],
)
def test_what_does_not_fit_is_refused_before_the_first_step(decoder, likelihood, encoder, x, match):
    model = lvm.models.VAE(2, decoder(), likelihood())
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    with pytest.raises(ValueError, match=match):
        lvm.fit(model, lvm.guides.Amortized(model, encoder()), x, num_steps=3, progress=False)
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())
