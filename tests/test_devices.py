"""The same path on the CPU and on CUDA: data and parameters go where ``device`` says, and results stay there."""

from functools import partial

import pyro
import pyro.distributions as dist
import pytest
import torch

import pyrolvm as lvm
from pyrolvm.fitting.captured import CapturedStep


def model(x):
    mu = pyro.param("mu", torch.tensor(0.0))
    with lvm.data_plate(x):
        z = pyro.sample("z", dist.Normal(mu, 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x)


def guide(x):
    slope = pyro.param("slope", torch.tensor(0.3))
    with lvm.data_plate(x):
        pyro.sample("z", dist.Normal(slope * x, 0.8))


def truth(x, mu):
    return dist.Normal(mu, 2**0.5).log_prob(x)


@pytest.mark.parametrize("objective", [lvm.objectives.ELBO(2), lvm.objectives.IWELBO(4)], ids=["ELBO", "IWELBO"])
def test_functions(device, objective):
    x = torch.linspace(-1, 3, 60)
    result = lvm.fit(
        model,
        guide,
        x,
        objective=objective,
        batch_size=20,
        num_epochs=20,
        device=device,
        validation=x,
        seed=0,
        progress=False,
    )
    assert result.losses.device.type == "cpu"
    for parameter in (*result.model.parameters.values(), *result.guide.parameters.values()):
        assert parameter.device.type == torch.device(device).type
    evidence = lvm.evidence.importance(result.model, result.guide, x, num_particles=2000, batch_size=25, seed=0)
    assert evidence.log_evidence.device.type == torch.device(device).type
    expected = truth(x.to(device), result.model.parameters["mu"])
    assert ((evidence.log_evidence - expected).abs() < 4.5 * evidence.standard_error).all()
    assert result.sample(3, x, seed=0)["z"].device.type == torch.device(device).type


def test_modules(device):
    pixels = torch.tensor(lvm.datasets.digits().x[:300] >= 8).double()
    vae = lvm.models.VAE(2, lvm.nn.MLP(2, [16], 64)).double()
    amortized = lvm.guides.Amortized(vae, lvm.nn.MLP(64, [16], 16).double())
    result = lvm.fit(vae, amortized, pixels, batch_size=100, num_epochs=5, device=device, seed=0, progress=False)
    assert {p.device.type for p in (*vae.parameters(), *amortized.parameters())} == {torch.device(device).type}
    assert result.losses[-3:].mean() < result.losses[:3].mean()
    bound = lvm.objectives.IWELBO(10).bound(vae, amortized, pixels, seed=0)
    assert bound.device.type == torch.device(device).type
    assert torch.isfinite(bound).all()


@pytest.mark.parametrize("family", [lvm.guides.MeanField, lvm.guides.FullRank])
def test_eight_schools(device, family):
    y, sigma = torch.tensor(lvm.datasets.eight_schools().x, device=device).T
    schools = partial(lvm.models.eight_schools_noncentered, y, sigma)
    result = lvm.fit(schools, family(schools), num_steps=100, device=device, seed=0, progress=False)
    assert result.losses[-20:].mean() < result.losses[:20].mean()
    assert torch.isfinite(lvm.objectives.ELBO(10).bound(result.model, result.guide, seed=0))


def test_mixture(device):
    x = torch.tensor(lvm.datasets.faithful().x)
    mixture = lvm.models.GaussianMixture(2, 2).double().to(device)
    lvm.fit_em(mixture, x, seed=0, progress=False)
    assert lvm.evidence.exact(mixture, x).total.log_evidence.item() == pytest.approx(-1130.264, abs=0.01)
    result = lvm.fit(mixture, None, x, num_steps=20, device=device, seed=0, progress=False)
    assert result.losses[0] == pytest.approx(1130.264, abs=0.01)


@pytest.mark.parametrize("compile", [False, True])
def test_captured_steps(device, compile, monkeypatch):
    """The same parameters on either device, captured or not; on CUDA, no step waits for the host."""
    if torch.device(device).type == "cpu":
        monkeypatch.setattr(CapturedStep, "compile", lambda self: None)
    x = torch.linspace(-1, 3, 60)
    options = {"batch_size": 20, "num_steps": 40, "device": device, "seed": 0, "progress": False}
    found = lvm.fit(model, guide, x, compile=compile, **options)
    expected = lvm.fit(model, guide, x, compile=False, **options)
    assert found.execution.startswith("compiled" if compile else "eager")
    torch.testing.assert_close(found.losses, expected.losses)


@pytest.mark.gpu
@pytest.mark.filterwarnings("ignore:Synchronization debug mode is a prototype feature:UserWarning")
def test_captured_steps_never_wait_for_the_device():
    def run(self, batches):
        torch.cuda.set_sync_debug_mode("error")
        try:
            return original(self, batches)
        finally:
            torch.cuda.set_sync_debug_mode("default")

    original = CapturedStep.run
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(CapturedStep, "run", run)
        x = torch.linspace(-1, 3, 60)
        result = lvm.fit(
            model, guide, x, compile=True, batch_size=20, num_steps=200, device="cuda", seed=0, progress=False
        )
    assert result.execution.startswith("compiled")


@pytest.mark.filterwarnings("ignore::pyrolvm.posterior.DoubtfulImputation")
def test_what_is_said_of_single_data(device):
    """Features, imputation and pictures come back as arrays, whatever the device."""
    x = torch.tensor(lvm.datasets.digits().x[:20] >= 8).double()
    x[:, 3] = torch.nan
    masked = lvm.likelihoods.Masked(lvm.likelihoods.Bernoulli())
    vae = lvm.models.VAE(2, lvm.nn.MLP(2, [16], 64), masked).to(device)
    encoder = torch.nn.Sequential(lvm.nn.FillMissing(), lvm.nn.MLP(128, [16], 16)).to(device)
    vae, amortized = lvm.bind(vae, lvm.guides.Amortized(vae, encoder), x.to(device))
    assert lvm.features(vae, amortized, x).shape == (20, 2)
    with torch.no_grad():
        truth = amortized.heads["head0"](amortized.encoder(x.to(device)))[:, :2].cpu()
    torch.testing.assert_close(torch.tensor(lvm.features(vae, amortized, x)), truth)
    found = lvm.impute(vae, amortized, x, num_particles=200, seed=0)
    assert ((found.mean >= 0) & (found.mean <= 1)).all()
    for draw in (False, True):
        assert len(lvm.pictures.samples(vae, 3, draw=draw, seed=0).axes) == 1
        assert len(lvm.pictures.reconstructions(vae, amortized, x, draw=draw, seed=0).axes) == 1
        assert len(lvm.pictures.traversals(vae, amortized, x, draw=draw, seed=0).axes) == 1


@pytest.mark.filterwarnings("ignore::pyrolvm.posterior.DoubtfulImputation")
def test_what_is_said_of_data_with_classes(device):
    """Classes are drawn where the model is; a label keeps its class, and what is missing has that class's mean."""
    x = torch.full((3, 4), torch.nan)
    x[:, 0] = 0.0
    decoder = torch.nn.Linear(2 + 3, 4)
    with torch.no_grad():
        decoder.weight.zero_()[1:, 2:].copy_(torch.tensor([1.0, 5.0, 9.0]))
        decoder.bias.zero_()
    masked = lvm.likelihoods.Masked(lvm.likelihoods.Gaussian(0.1))
    model = lvm.models.SemiSupervisedVAE(3, 2, decoder, masked).to(device)
    amortized = lvm.guides.Amortized(model, torch.nn.Sequential(lvm.nn.FillMissing(), torch.nn.Linear(8, 4)).to(device))
    labels = torch.arange(3)
    lvm.bind(model, amortized, x.to(device), labels.to(device))
    found = lvm.impute(model, amortized, x, labels, num_particles=200, seed=0)
    truth = torch.tensor([[1.0], [5.0], [9.0]]).expand(3, 3)
    torch.testing.assert_close(torch.tensor(found.mean[:, 1:]), truth)
    assert len(lvm.pictures.reconstructions(model, amortized, x, labels, seed=0).axes) == 1
    figure = lvm.pictures.traversals(model, amortized, x, labels, row=2, num_steps=2, seed=0)
    assert figure.axes[0].get_title(loc="left") == "y = 2"


@pytest.mark.gpu
def test_what_differs_from_step_to_step_is_compiled_for_the_device():
    """Fresh bits, a weight that warms up, steps of the guide alone: in a graph, with the losses of eager steps."""
    grey = torch.tensor(lvm.datasets.digits().x[:300] / 16).float()
    losses = []
    for compile in (True, False):
        torch.manual_seed(0)
        vae = lvm.models.VAE(2, lvm.nn.MLP(2, [16], 64)).float()
        amortized = lvm.guides.Amortized(vae, lvm.nn.MLP(64, [16], 16).float())
        result = lvm.fit(
            vae,
            amortized,
            grey,
            objective=lvm.objectives.ELBO(kl_weight=lvm.objectives.linear_warm_up(50)),
            transform=torch.bernoulli,
            num_guide_steps=2,
            batch_size=100,
            num_steps=200,
            device="cuda",
            compile=compile,
            seed=0,
            progress=False,
        )
        losses.append(result.losses)
    torch.testing.assert_close(losses[0][:100], losses[1][:100], rtol=1e-3, atol=0.0)
