"""Convolutional encoders and decoders of images, flat in and flat out."""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from pyrolvm.integers import as_integer
from pyrolvm.nn.checks import as_input, as_widths

__all__ = ["ConvDecoder", "ConvEncoder"]


class ConvEncoder(torch.nn.Module):
    """Convolutions of stride 2, each of which halves the image, then a linear layer.

    It maps (..., D), images as rows of the data, to (..., num_outputs), whatever dimensions come first.

    Args:
        image_shape: (height, width), or (colors, height, width), of any size; D is their product.
        channels: Channels after each convolution (3 x 3, stride 2, an activation after each).
        num_outputs: Width of the output.
        activation: A class (or function) that makes the activation, called once for each convolution.

    Raises:
        TypeError: If a size is not an integer, or `channels` or `image_shape` not a sequence.
        ValueError: If a size is below 1, there are no channels, or an image has not 2 or 3 dimensions.

    References:
        Radford, Metz & Chintala 2016, Unsupervised representation learning with deep convolutional generative
        adversarial networks, section 3 (strides in place of pooling).

    Example:
        >>> ConvEncoder((8, 8), [8, 16], 32)(torch.zeros(5, 64)).shape
        torch.Size([5, 32])
    """

    def __init__(
        self,
        image_shape: Sequence[int],
        channels: Sequence[int],
        num_outputs: int,
        activation: Callable[[], torch.nn.Module] = torch.nn.ReLU,
    ) -> None:
        super().__init__()
        self.image_shape = _as_image_shape(image_shape)
        channels = _as_channels(channels)
        num_outputs = as_integer(num_outputs, "num_outputs")
        self.num_inputs, self.num_outputs = math.prod(self.image_shape), num_outputs
        colors, *size = self._colors_first
        layers: list[torch.nn.Module] = []
        for before, after in pairwise((colors, *channels)):
            layers += [torch.nn.Conv2d(before, after, 3, stride=2, padding=1), activation()]
        self.layers = torch.nn.Sequential(*layers, torch.nn.Flatten())
        smallest = _sizes(size, len(channels))[-1]
        self.last = torch.nn.Linear(channels[-1] * math.prod(smallest), num_outputs)

    @property
    def _colors_first(self) -> tuple[int, ...]:
        return (1, *self.image_shape)[-3:]

    def forward(self, input: Float[Tensor, "*batch num_inputs"]) -> Float[Tensor, "*batch num_outputs"]:
        """Apply the layers to images.

        Args:
            input: Shape (..., D); integers and bits are taken as numbers of the layers' dtype.

        Returns:
            Shape (..., num_outputs).

        Raises:
            ValueError: If the last dimension is not D wide.
        """
        of = f", images of {self.image_shape}"
        is_image = tuple(input.shape[-len(self.image_shape) :]) == self.image_shape
        remedy = f"Flatten the images: x.flatten(-{len(self.image_shape)})." if is_image else ""
        flat = as_input(input, self.num_inputs, self.last.weight, "ConvEncoder", of, remedy)
        features = self.layers(flat.reshape(-1, *self._colors_first))
        return self.last(features).reshape(*input.shape[:-1], self.num_outputs)


class ConvDecoder(torch.nn.Module):
    """A linear layer, then transposed convolutions of stride 2, each of which doubles the image.

    It maps (..., num_inputs) to (..., P D), whatever dimensions come first: the mirror image of `ConvEncoder`.

    Args:
        num_inputs: Width of the input.
        channels: Channels before each transposed convolution (3 x 3, stride 2, an activation before each).
        image_shape: (height, width), or (colors, height, width), of any size; D is their product.
        num_outputs_per_pixel: P, for likelihoods that take several numbers for each feature: 2 for
            `HeteroscedasticGaussian`, K for `Categorical(K)`. The output is P images one after the other.
        activation: A class (or function) that makes the activation, called once for each transposed convolution.

    Raises:
        TypeError: If a size is not an integer, or `channels` or `image_shape` not a sequence.
        ValueError: If a size is below 1, there are no channels, or an image has not 2 or 3 dimensions.

    References:
        Radford, Metz & Chintala 2016, Unsupervised representation learning with deep convolutional generative
        adversarial networks, section 3 (strides in place of pooling).

    Example:
        >>> ConvDecoder(2, [16, 8], (8, 8))(torch.zeros(5, 3, 2)).shape
        torch.Size([5, 3, 64])
    """

    def __init__(
        self,
        num_inputs: int,
        channels: Sequence[int],
        image_shape: Sequence[int],
        num_outputs_per_pixel: int = 1,
        activation: Callable[[], torch.nn.Module] = torch.nn.ReLU,
    ) -> None:
        super().__init__()
        num_inputs = as_integer(num_inputs, "num_inputs")
        channels = _as_channels(channels)
        self.image_shape = _as_image_shape(image_shape)
        num_outputs_per_pixel = as_integer(num_outputs_per_pixel, "num_outputs_per_pixel")
        self.num_inputs = num_inputs
        self.num_outputs = num_outputs_per_pixel * math.prod(self.image_shape)
        colors, *size = (1, *self.image_shape)[-3:]
        sizes = _sizes(size, len(channels))[::-1]
        self.first = torch.nn.Linear(num_inputs, channels[0] * math.prod(sizes[0]))
        layers: list[torch.nn.Module] = [torch.nn.Unflatten(1, (channels[0], *sizes[0]))]
        counts = (*channels, num_outputs_per_pixel * colors)
        for (before, after), larger in zip(pairwise(counts), sizes[1:], strict=True):
            height, width = (1 - length % 2 for length in larger)  # an odd length is one less than twice its half
            more = (height, width)
            layers += [activation(), torch.nn.ConvTranspose2d(before, after, 3, 2, padding=1, output_padding=more)]
        self.layers = torch.nn.Sequential(*layers)

    def forward(self, input: Float[Tensor, "*batch num_inputs"]) -> Float[Tensor, "*batch num_outputs"]:
        """Apply the layers to rows.

        Args:
            input: Shape (..., num_inputs); integers and bits are taken as numbers of the layers' dtype.

        Returns:
            Shape (..., P D).

        Raises:
            ValueError: If the last dimension is not num_inputs wide.
        """
        rows = as_input(input, self.num_inputs, self.first.weight, "ConvDecoder").reshape(-1, self.num_inputs)
        return self.layers(self.first(rows)).reshape(*input.shape[:-1], self.num_outputs)


def _sizes(size: Sequence[int], num_halvings: int) -> list[tuple[int, ...]]:
    """Height and width, and what each convolution leaves of them."""
    return [tuple(-(-length // 2**i) for length in size) for i in range(num_halvings + 1)]


def _as_image_shape(image_shape: Any) -> tuple[int, ...]:
    if not isinstance(image_shape, Sequence) or isinstance(image_shape, str):
        raise TypeError(f"'image_shape' must be (height, width) or (colors, height, width); got {image_shape!r}.")
    if len(image_shape) not in (2, 3):
        raise ValueError(f"'image_shape' must be (height, width) or (colors, height, width); got {tuple(image_shape)}.")
    shape = tuple(as_integer(length, "image_shape") for length in image_shape)
    if len(shape) == 3 and shape[0] == shape[1] > shape[2] and shape[2] in (1, 3):
        raise ValueError(
            f"'image_shape' must be (colors, height, width); got {shape}, with the colors last. Move them to the "
            "front: x.transpose(0, 3, 1, 2) of images (N, height, width, colors)."
        )
    return shape


def _as_channels(channels: Any) -> tuple[int, ...]:
    widths = as_widths(channels, "channels")
    if not widths:
        raise ValueError("'channels' must have at least one entry; got none. For linear layers alone, take MLP.")
    return widths
