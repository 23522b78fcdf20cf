# mypy: disable-error-code="import-not-found"
"""A variational autoencoder on binary images, with one hidden layer on each side: a step on a minibatch.

q(z | x) = N(loc, scale), scale = softplus(raw) + 1e-6, (loc, raw) a linear map of relu(linear(x)); x | z Bernoulli with
logits linear(relu(linear(z))). Every side starts from the same weights, draws one z for each image, and takes the ELBO
as log p(x, z) - log q(z | x).
"""

from typing import Any

import numpy as np

from benchmarks.work import Contestant, Options, Runner, Work
from benchmarks.works.fits import LEARNING_RATE, OURS, EagerSteps, Fits, Scans, minibatches

__all__ = ["WORKS", "fitted_network", "images", "pyrolvm_pair"]


def images(options: Options) -> np.ndarray:
    """Binary images of a random decoder, shape (N, num_features)."""
    generator = np.random.default_rng(0)
    hidden = np.maximum(generator.normal(size=(options["num_data"], 5)) @ generator.normal(size=(5, 50)), 0)
    logits = 0.7 * hidden @ generator.normal(size=(50, options["num_features"])) - 1
    return (generator.random(logits.shape) < 1 / (1 + np.exp(-logits))).astype(np.float32)


def _weights(options: Options) -> dict[str, np.ndarray]:
    """The common start: weights (outputs, inputs) and biases, uniform within 1/sqrt(inputs) as torch's layers are."""
    features, hidden, latents = options["num_features"], options["num_hidden"], options["num_latents"]
    sizes = {"encode": (hidden, features), "head": (2 * latents, hidden), "decode": (hidden, latents)}
    generator, found = np.random.default_rng(1), {}
    for name, (outputs, inputs) in {**sizes, "logits": (features, hidden)}.items():
        bound = inputs**-0.5
        found[f"{name}.weight"] = generator.uniform(-bound, bound, (outputs, inputs)).astype(np.float32)
        found[f"{name}.bias"] = generator.uniform(-bound, bound, outputs).astype(np.float32)
    return found


def network(options: Options) -> Any:
    """The four layers as torch modules."""
    import torch

    start = {name: torch.from_numpy(value.copy()) for name, value in _weights(options).items()}
    layers = {}
    for name in ("encode", "head", "decode", "logits"):
        outputs, inputs = start[f"{name}.weight"].shape
        layers[name] = torch.nn.Linear(inputs, outputs)
    net = torch.nn.ModuleDict(layers)
    net.load_state_dict(start)
    return net


def _handwritten_loss(net: Any, x: Any) -> Any:
    """Minus the ELBO, nats an image, as one would write it by hand."""
    import torch
    import torch.nn.functional as F

    loc, raw = net["head"](torch.relu(net["encode"](x))).chunk(2, -1)
    scale = F.softplus(raw) + 1e-6
    noise = torch.randn_like(loc)
    z = loc + scale * noise
    logits = net["logits"](torch.relu(net["decode"](z)))
    log_ratio = 0.5 * (noise.square() - z.square()) + scale.log()
    return (F.binary_cross_entropy_with_logits(logits, x, reduction="sum") - log_ratio.sum()) / len(x)


def _handwritten_step(net: Any, options: Options) -> Any:
    """A step of Adam, fused, on the next minibatch."""
    import torch

    x = torch.from_numpy(images(options))
    optimizer = torch.optim.Adam(net.parameters(), lr=LEARNING_RATE, fused=True)
    batches = minibatches(x, options["batch_size"])
    loss_of = torch.compile(_handwritten_loss) if options.get("compile") else _handwritten_loss

    def step() -> torch.Tensor:
        loss: torch.Tensor = loss_of(net, next(batches))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        return loss.detach()

    return step


def fitted_network(options: Options, num_steps: int) -> Any:
    """The network after some steps, the same in every process."""
    import torch

    torch.manual_seed(1)
    net = network(options)
    step = _handwritten_step(net, options)
    for _ in range(num_steps):
        step()
    return net


def pyrolvm_pair(net: Any, x: Any) -> tuple[Any, Any]:
    """``lvm.models.VAE`` and ``lvm.guides.Amortized`` with a network's weights."""
    import torch

    import pyrolvm as lvm

    hidden, num_features = net["encode"].weight.shape
    latents = net["decode"].in_features
    model: Any = lvm.models.VAE(num_latents=latents, decoder=lvm.nn.MLP(latents, [hidden], num_features))
    encoder = torch.nn.Sequential(torch.nn.Linear(num_features, hidden), torch.nn.ReLU())
    guide = lvm.guides.Amortized(model, encoder)
    lvm.bind(model, guide, x[:2])  # makes the guide's head
    head = next(iter(guide.heads.values()))
    pairs = ((encoder[0], "encode"), (head, "head"), (model.decoder[0], "decode"), (model.decoder[2], "logits"))
    for layer, name in pairs:
        layer.load_state_dict(net[name].state_dict())
    return model, guide


def ours(options: Options) -> Runner:
    """``lvm.fit`` of ``lvm.models.VAE`` and ``lvm.guides.Amortized``."""
    import torch

    import pyrolvm as lvm

    x = torch.from_numpy(images(options))
    return Fits(
        lambda: pyrolvm_pair(network(options), x),
        x,
        compile=options["compile"],
        scale=len(x),
        objective=lvm.objectives.ELBO(),
        batch_size=options["batch_size"],
    )


def handwritten(options: Options) -> Runner:
    """PyTorch by hand with fused Adam; with ``compile``, the loss and its gradient by ``torch.compile``."""
    import torch

    def build() -> Any:
        torch.manual_seed(1)
        return _handwritten_step(network(options), options)

    return EagerSteps(build)


def pyro_svi(options: Options) -> Runner:
    """Pyro's ``SVI.step`` with ``Trace_ELBO``; validation is off."""
    import pyro
    import pyro.distributions as dist
    import torch
    from pyro.infer import SVI, Trace_ELBO

    pyro.enable_validation(False)
    x, num_latents = torch.from_numpy(images(options)), options["num_latents"]

    def build() -> Any:
        pyro.clear_param_store()
        torch.manual_seed(1)
        net, batches = network(options), minibatches(x, options["batch_size"])

        def model(batch: torch.Tensor) -> None:
            pyro.module("net", net)
            with pyro.plate("data", len(batch)):
                z = pyro.sample("z", dist.Normal(torch.zeros(num_latents), 1.0).to_event(1))
                logits = net["logits"](torch.relu(net["decode"](z)))
                pyro.sample("x", dist.Bernoulli(logits=logits).to_event(1), obs=batch)

        def guide(batch: torch.Tensor) -> None:
            pyro.module("net", net)
            loc, raw = net["head"](torch.relu(net["encode"](batch))).chunk(2, -1)
            with pyro.plate("data", len(batch)):
                pyro.sample("z", dist.Normal(loc, torch.nn.functional.softplus(raw) + 1e-6).to_event(1))

        svi = SVI(model, guide, pyro.optim.Adam({"lr": LEARNING_RATE}), Trace_ELBO(max_plate_nesting=1))  # type: ignore[attr-defined]
        return lambda: svi.step(next(batches)) / options["batch_size"]

    return EagerSteps(build)


def numpyro_scan(options: Options) -> Runner:
    """NumPyro's ``svi.update`` in a compiled ``lax.scan`` over shuffled minibatches, with ``Trace_ELBO``."""
    import jax
    import jax.numpy as jnp
    import numpyro
    import numpyro.distributions as dist
    from numpyro.infer import SVI, Trace_ELBO

    start, num_latents = _weights(options), options["num_latents"]

    def linear(name: str, x: Any) -> Any:
        weight = numpyro.param(f"{name}.weight", jnp.asarray(start[f"{name}.weight"].T))
        return x @ weight + numpyro.param(f"{name}.bias", jnp.asarray(start[f"{name}.bias"]))

    def model(batch: Any) -> None:
        with numpyro.plate("data", len(batch)):
            z = numpyro.sample("z", dist.Normal(jnp.zeros(num_latents), 1.0).to_event(1))
            logits = linear("logits", jax.nn.relu(linear("decode", z)))
            numpyro.sample("x", dist.Bernoulli(logits=logits).to_event(1), obs=batch)

    def guide(batch: Any) -> None:
        loc, raw = jnp.split(linear("head", jax.nn.relu(linear("encode", batch))), 2, -1)
        with numpyro.plate("data", len(batch)):
            numpyro.sample("z", dist.Normal(loc, jax.nn.softplus(raw) + 1e-6).to_event(1))

    svi = SVI(model, guide, numpyro.optim.Adam(LEARNING_RATE), Trace_ELBO())
    x, batch_size = images(options), options["batch_size"]
    return Scans(svi, x, batch_size, block=options["num_epochs"], scale=batch_size)


CONTESTANTS = (
    Contestant("pyrolvm", ours, OURS, options={"compile": True}, compiles=True, in_growth=True),
    Contestant("pyrolvm, not compiled", ours, OURS, options={"compile": False}),
    Contestant("PyTorch by hand", handwritten, ("torch",), in_growth=True),
    Contestant("PyTorch by hand, torch.compile", handwritten, ("torch",), options={"compile": True}, compiles=True),
    Contestant("Pyro", pyro_svi, ("pyro.infer",)),
    Contestant("NumPyro", numpyro_scan, ("numpyro.infer",), "numpyro", compiles=True, in_growth=True),
)

_NOTE = (
    "Every epoch is reshuffled on every side; Adam is fused in the programs written by hand. Losses are those of steps "
    "101 to 200: later the paths of different seeds part (by half a nat and more on any one side), and the check would "
    "be blunter."
)
LARGE = {"num_data": 5000, "num_features": 784, "num_hidden": 400, "num_latents": 20, "batch_size": 128}
SMALL = {"num_data": 5000, "num_features": 64, "num_hidden": 64, "num_latents": 4, "batch_size": 32}


def _work(key: str, title: str, sizes: dict[str, int], num_epochs: int, targets: dict[str, float]) -> Work:
    return Work(
        key=key,
        title=title,
        unit="a step",
        options={**sizes, "num_epochs": num_epochs},
        contestants=CONTESTANTS,
        targets=targets,
        loss="minus ELBO, nats an image",
        num_checked=(200, 200),
        tail=0.5,
        tolerance=0.001 * sizes["num_features"],
        first=True,
        note=_NOTE,
    )


WORKS = (
    _work("vae", "VAE 784-400-20, batch 128", LARGE, 1, {"PyTorch by hand": 1.3, "NumPyro": 1}),
    _work("vae-small", "VAE 64-64-4, batch 32", SMALL, 10, {"PyTorch by hand": 3}),
)
