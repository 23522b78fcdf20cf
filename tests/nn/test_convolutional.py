import math

import numpy as np
import pytest
import scipy.signal
import torch

from pyrolvm.likelihoods import HeteroscedasticGaussian
from pyrolvm.nn import ConvDecoder, ConvEncoder

SHAPES = [(1, 1), (1, 6), (5, 7), (8, 8), (3, 9, 6)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("channels", [[4], [4, 5, 6]], ids=str)
def test_shapes_of_any_size_and_any_dimensions_before(shape, channels):
    size = math.prod(shape)
    encoder, decoder = ConvEncoder(shape, channels, 7), ConvDecoder(2, channels[::-1], shape, 3)
    assert (encoder.num_inputs, encoder.num_outputs) == (size, 7)
    assert (decoder.num_inputs, decoder.num_outputs) == (2, 3 * size)
    for network, width in ((encoder, 7), (decoder, 3 * size)):
        x = torch.randn(4, 3, network.num_inputs)
        output = network(x)
        assert output.shape == (4, 3, width)
        one_by_one = torch.stack([network(row) for row in x.reshape(12, -1)]).reshape(4, 3, width)
        torch.testing.assert_close(output, one_by_one)
        assert network(x[:0]).shape == (0, 3, width)


def test_encoder_is_scipys_correlation_at_every_second_pixel():
    encoder = ConvEncoder((2, 7, 6), [3], 4, activation=torch.nn.Tanh)
    x = torch.randn(2, 7, 6)
    conv = encoder.layers[0]
    kernels, biases = conv.weight.detach().numpy(), conv.bias.detach().numpy()
    maps = [
        sum(
            scipy.signal.correlate2d(color, kernel, "same") for color, kernel in zip(x.numpy(), kernels[k], strict=True)
        )
        for k in range(3)
    ]
    features = np.tanh(np.stack(maps) + biases[:, None, None])[:, ::2, ::2].reshape(-1)
    expected = encoder.last.weight.detach().numpy() @ features + encoder.last.bias.detach().numpy()
    np.testing.assert_allclose(encoder(x.flatten()).detach().numpy(), expected)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_decoders_convolutions_are_the_transposes_of_the_encoders(shape):
    """<conv(x), y> = <x, transposed(y)> for all x and y, for odd and even sizes."""
    encoder, decoder = ConvEncoder(shape, [4], 7), ConvDecoder(2, [4], shape)
    conv, transposed = encoder.layers[0], decoder.layers[-1]
    with torch.no_grad():
        transposed.weight.copy_(conv.weight)
        conv.bias.zero_(), transposed.bias.zero_()
        x = torch.randn(5, *(1, *shape)[-3:])
        mapped = conv(x)
        y = torch.randn_like(mapped)
        torch.testing.assert_close((mapped * y).sum(), (x * transposed(y)).sum())


def test_several_outputs_for_each_pixel_are_images_one_after_the_other():
    decoder = ConvDecoder(2, [4], (3, 5, 4), 2)
    with torch.no_grad():
        decoder.layers[-1].weight.zero_()
        decoder.layers[-1].bias.copy_(torch.tensor([1.0, 2.0, 3.0, -9.0, -9.0, -9.0]))
    mean = HeteroscedasticGaussian().mean(decoder(torch.zeros(2)))
    torch.testing.assert_close(mean.reshape(3, 20), torch.tensor([[1.0], [2.0], [3.0]]).expand(3, 20))


def test_layers_are_what_was_asked_for():
    encoder = ConvEncoder((8, 8), [4, 5], 7, activation=torch.nn.Tanh)
    assert [type(layer).__name__ for layer in encoder.layers] == ["Conv2d", "Tanh", "Conv2d", "Tanh", "Flatten"]
    assert encoder.last.in_features == 5 * 2 * 2
    decoder = ConvDecoder(7, [5, 4], (8, 8), activation=torch.nn.Tanh)
    kinds = ["Unflatten", "Tanh", "ConvTranspose2d", "Tanh", "ConvTranspose2d"]
    assert [type(layer).__name__ for layer in decoder.layers] == kinds
    assert decoder.first.out_features == 5 * 2 * 2


def test_integers_and_bits_are_numbers():
    encoder, x = ConvEncoder((2, 3), [4], 2), torch.tensor([[1, 0, 2, 0, 1, 1]])
    assert torch.equal(encoder(x), encoder(x.double()))
    assert encoder.float()(x > 0).dtype == torch.float32


@pytest.mark.parametrize(
    ("act", "error", "match"),
    [
        (
            lambda: ConvEncoder((4, 4), [3], 2)(torch.zeros(5, 9)),
            ValueError,
            r"the input of the ConvEncoder must have shape \(\.\.\., 16\), images of \(4, 4\); got \(5, 9\)\.$",
        ),
        (
            lambda: ConvEncoder((3, 4, 4), [3], 2)(torch.zeros(5, 3, 4, 4)),
            ValueError,
            r"images of \(3, 4, 4\); got \(5, 3, 4, 4\)\. Flatten the images: x\.flatten\(-3\)",
        ),
        (
            lambda: ConvDecoder(2, [3], (4, 4))(torch.zeros(5, 3)),
            ValueError,
            r"the input of the ConvDecoder must have shape \(\.\.\., 2\); got \(5, 3\)",
        ),
        (lambda: ConvEncoder(64, [3], 2), TypeError, r"'image_shape' must be \(height, width\) or .*; got 64"),
        (lambda: ConvDecoder(2, [3], (64,)), ValueError, r"'image_shape' must be .*; got \(64,\)"),
        (lambda: ConvEncoder((4, 0), [3], 2), ValueError, "'image_shape' must be at least 1; got 0"),
        (
            lambda: ConvEncoder((4, 4, 3), [3], 2),
            ValueError,
            r"got \(4, 4, 3\), with the colors last\. Move them to the f",
        ),
        (lambda: ConvEncoder((4, 4), [], 2), ValueError, "'channels' must have at least one entry; got none. .* MLP"),
        (lambda: ConvDecoder(2, 3, (4, 4)), TypeError, "'channels' must be a sequence of widths; got 3"),
        (lambda: ConvEncoder((4, 4), [3], 0), ValueError, "'num_outputs' must be at least 1; got 0"),
        (lambda: ConvDecoder(0, [3], (4, 4)), ValueError, "'num_inputs' must be at least 1; got 0"),
        (lambda: ConvDecoder(2, [3], (4, 4), 0), ValueError, "'num_outputs_per_pixel' must be at least 1; got 0"),
    ],
)
def test_refusals(act, error, match):
    with pytest.raises(error, match=match):
        act()
