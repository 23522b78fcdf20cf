# mypy: disable-error-code="import-not-found"
"""log p(x) of images under a fitted VAE by importance sampling from its encoder, K = 5,000 draws an image.

Every side holds the same fitted weights.
"""

import time
from typing import Any

from benchmarks.work import Contestant, Options, Work
from benchmarks.works.vae import LARGE, SMALL, fitted_network, images, pyrolvm_pair

__all__ = ["WORKS"]

_FITTED_STEPS = 1500


class _Images:
    """Images and a fitted network."""

    def __init__(self, options: Options) -> None:
        import torch

        self.options = options
        self.x = torch.from_numpy(images(options))
        self.net = fitted_network(options, _FITTED_STEPS)
        self.num_particles, self.rows = options["num_particles"], options["rows"]

    def log_evidence(self, count: int) -> list[float]:
        """log p(x) of so many images."""
        raise NotImplementedError

    def run(self, count: int) -> float:
        """Seconds of so many images."""
        start = time.perf_counter()
        self.log_evidence(count)
        return time.perf_counter() - start

    def losses(self, count: int) -> list[float]:
        """Minus log p(x) of the first images."""
        return [-value for value in self.log_evidence(count)]


class Ours(_Images):
    """``lvm.evidence.importance``, of 1,000 images at once."""

    least = 1000

    def __init__(self, options: Options) -> None:
        super().__init__(options)
        self.pair = pyrolvm_pair(self.net, self.x)

    def log_evidence(self, count: int) -> list[float]:
        """log p(x) of so many images."""
        import pyrolvm as lvm

        sizes = {"num_particles": self.num_particles, "batch_size": min(count, self.rows)}
        found = lvm.evidence.importance(*self.pair, self.x[:count], seed=0, **sizes)
        values: list[float] = found.log_evidence.tolist()
        return values


class Decoder(Ours):
    """The decoder alone, on as many draws and in the very batches that ours gives it."""

    def run(self, count: int) -> float:
        """Seconds of so many images."""
        import torch

        latents = [torch.randn(shape) for shape in self._shapes(min(count, self.rows))]
        decoder = self.pair[0].decoder
        done, start = 0, time.perf_counter()
        with torch.no_grad():
            while done < count:
                for z in latents:
                    decoder(z)
                done += min(count, self.rows)
        return (time.perf_counter() - start) * count / done

    def _shapes(self, rows: int) -> list[Any]:
        """Shapes of what ours gives the decoder for one chunk of rows."""
        from pyrolvm.programs import at_once

        num_latents = self.options["num_latents"]
        return [(size, rows, num_latents) for size in at_once(self.num_particles, rows, self.x[:rows].numel())]


class Pythae(_Images):
    """pythae's ``VAE.get_nll``, whose loop goes image by image, without gradients."""

    def __init__(self, options: Options) -> None:
        super().__init__(options)
        self.model = _pythae_model(self.net, options)

    def log_evidence(self, count: int) -> list[float]:
        """log p(x) of so many images."""
        import torch

        size = {"n_samples": self.num_particles, "batch_size": self.options["draws"]}
        with torch.no_grad():
            return [float(self.model.get_nll(self.x[i : i + 1], **size)) for i in range(count)]


def _pythae_model(net: Any, options: Options) -> Any:
    """The network as pythae's encoder and decoder."""
    import torch
    from pythae.models import VAE, VAEConfig
    from pythae.models.base.base_utils import ModelOutput
    from pythae.models.nn import BaseDecoder, BaseEncoder

    class Encoder(BaseEncoder):
        def __init__(self) -> None:
            super().__init__()
            self.encode, self.head = net["encode"], net["head"]

        def forward(self, x: torch.Tensor) -> Any:
            loc, raw = self.head(torch.relu(self.encode(x))).chunk(2, -1)
            scale = torch.nn.functional.softplus(raw) + 1e-6
            return ModelOutput(embedding=loc, log_covariance=2 * scale.log())

    class Decoder(BaseDecoder):
        def __init__(self) -> None:
            super().__init__()
            self.decode, self.logits = net["decode"], net["logits"]

        def forward(self, z: torch.Tensor) -> Any:
            return ModelOutput(reconstruction=self.logits(torch.relu(self.decode(z))).sigmoid())

    sizes = {"input_dim": (options["num_features"],), "latent_dim": options["num_latents"]}
    return VAE(VAEConfig(**sizes, reconstruction_loss="bce"), Encoder(), Decoder())


CONTESTANTS = (
    Contestant("pyrolvm", Ours, ("pyrolvm",)),
    Contestant("the decoder alone", Decoder, ("pyrolvm",)),
    Contestant("pythae", Pythae, ("pythae.models",), "torch-peers", {"draws": 100}),
    Contestant("pythae, 5,000 draws at once", Pythae, ("pythae.models",), "torch-peers", {"draws": 5000}),
)
_NOTE = (
    "The first two take 1,000 images in one call, after a first one that compiles. pythae's loop takes one image after "
    "the other, so it is timed on fewer; its default is 100 draws at once. "
    "Targets: 20 times pythae's time, and at most 1.5 times the decoder's own (0.67 in the column of ratios)."
)


def _work(key: str, title: str, sizes: dict[str, int]) -> Work:
    return Work(
        key=key,
        title=title,
        unit="an image",
        options={**sizes, "num_particles": 5000, "rows": 100},
        contestants=CONTESTANTS,
        targets={"the decoder alone": 1 / 1.5, "pythae": 20},
        loss="minus log p(x), nats, mean of the first images",
        num_checked=(20, 5),
        tail=1.0,
        tolerance=0.02,
        noise="images",
        most=1000,
        note=_NOTE,
    )


WORKS = (
    _work("evidence", "log p(x), K = 5,000, VAE 784-400-20", LARGE),
    _work("evidence-small", "log p(x), K = 5,000, VAE 64-64-4", SMALL),
)
