"""Pictures: their pixels are those of a linear decoder, whose images are known."""

from functools import partial

import matplotlib as mpl
import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch

import pyrolvm as lvm

ORANGE = np.array([230, 159, 0]) / 255


def linear_model(likelihood=None, num_features=4):
    """x | z ~ N(W z + b, 0.1^2 I) with W = diag(1, 2) on top of zeros and b = 0, 1, 2, ..."""
    decoder = torch.nn.Linear(2, num_features)
    with torch.no_grad():
        decoder.weight.copy_(torch.eye(num_features, 2) * torch.tensor([1.0, 2.0]))
        decoder.bias.copy_(torch.arange(num_features))
    return lvm.models.VAE(2, decoder, lvm.likelihoods.Gaussian(0.1) if likelihood is None else likelihood)


def guide(x):
    """Half of the first two entries of x, and little noise."""
    with lvm.data_plate(x):
        loc = torch.where(x.isnan(), 0.0, x)[:, :2] / 2
        pyro.sample("z", dist.Normal(loc, torch.tensor([0.1, 0.2])).to_event(1))


def data(n, num_features=4):
    return torch.randn(n, num_features, generator=torch.Generator().manual_seed(2))


def tiles(figure, height, width, num_columns):
    """The images of a figure in the order of reading, cut out of its canvas: (n, height, width, 4)."""
    canvas = np.asarray(figure.axes[0].images[0].get_array())
    gap = (canvas.shape[1] - num_columns * width) // max(1, num_columns - 1)
    num_rows = (canvas.shape[0] + gap) // (height + gap)
    places = [(i * (height + gap), j * (width + gap)) for i in range(num_rows) for j in range(num_columns)]
    return np.stack([canvas[top : top + height, left : left + width] for top, left in places])


def grey(images, low, high):
    """Values behind grey images that are painted on a scale from low to high."""
    np.testing.assert_array_equal(images[..., 0], images[..., 2])
    return (low + (high - low) * images[..., 0]).reshape(len(images), -1)


def labels(ticks):
    return [tick.get_text() for tick in ticks]


def test_samples_are_decoded_draws():
    model = linear_model()
    x, z = model.sample(12, seed=3)
    means = np.stack([z[:, 0], 2 * z[:, 1] + 1, np.full(12, 2), np.full(12, 3)], 1)
    state = torch.get_rng_state()
    found = tiles(lvm.pictures.samples(model, 12, seed=3), 2, 2, 10)
    assert torch.equal(torch.get_rng_state(), state)
    np.testing.assert_allclose(grey(found[:12], means.min(), means.max()), means, atol=1e-9)
    assert (found[12:, ..., 3] == 0).all()  # the rest of the second row is empty
    drawn = tiles(lvm.pictures.samples(model, 12, draw=True, seed=3), 2, 2, 10)
    np.testing.assert_allclose(grey(drawn[:12], x.min().item(), x.max().item()), x, atol=1e-9)


def test_probabilities_are_painted_from_0_to_1():
    model = lvm.models.VAE(2, lvm.nn.MLP(2, [], 4))
    _, z = model.sample(3, seed=0)
    found = grey(tiles(lvm.pictures.samples(model, 3, seed=0), 2, 2, 3), 0.0, 1.0)
    np.testing.assert_allclose(found, model.decode(z).detach(), atol=1e-9)


def test_models_with_standard_normal_latents():
    """Those without a decoder network too."""
    model = lvm.models.ProbabilisticPCA(2, 9)
    _, z = model.sample(4, seed=0)
    means = (z @ model.weights.mT + model.loc).detach().numpy()
    found = grey(tiles(lvm.pictures.samples(model, 4, seed=0), 3, 3, 4), means.min(), means.max())
    np.testing.assert_allclose(found, means, atol=1e-9)


@pytest.mark.parametrize("n", [3, 13])
def test_reconstructions_below_the_data(n):
    """The mean over draws of W z + b is W E[z] + b, up to the draws' error; what is missing is orange."""
    x, num_particles = data(n), 400
    x[0, 3] = torch.nan
    model = linear_model(lvm.likelihoods.Masked(lvm.likelihoods.Gaussian(0.1)))
    figure = lvm.pictures.reconstructions(model, guide, x, num_particles=num_particles, seed=0)
    columns = min(n, 10)
    blocks = -(-n // 10)
    assert labels(figure.axes[0].get_yticklabels()) == ["x", "mean"] * blocks
    images = tiles(figure, 2, 2, columns).reshape(blocks, 2, columns, 2, 2, 4)
    above, below = (images[:, i].reshape(-1, 2, 2, 4)[:n] for i in (0, 1))
    np.testing.assert_allclose(above[0, 1, 1, :3], ORANGE, atol=1e-6)
    loc = np.nan_to_num(x.numpy())[:, :2] / 2
    means = np.stack([loc[:, 0], 2 * loc[:, 1] + 1, np.full(n, 2), np.full(n, 3)], 1)
    low, high = np.nanmin(x.numpy()), 3.0  # the largest value of all is the constant 3
    high = max(high, np.nanmax(x.numpy()))
    above[0, 1, 1] = 0
    shown = grey(above, low, high)
    np.testing.assert_allclose(
        shown.ravel()[np.arange(4 * n) != 3], x.numpy().ravel()[np.arange(4 * n) != 3], atol=1e-6
    )
    error = np.array([0.1, 2 * 0.2, 1e-9, 1e-9]) / num_particles**0.5
    assert (np.abs(grey(below, low, high) - means) < 4.5 * error + 1e-6).all()


def test_one_draw_below_the_data():
    """x' ~ N(W z + b, 0.1^2), z ~ q: variances 0.1^2 + 0.1^2, 4 x 0.2^2 + 0.1^2, 0.1^2 and 0.1^2."""
    x = data(1).expand(200, 4) * 0.1
    figure = lvm.pictures.reconstructions(linear_model(), guide, x, draw=True, seed=0)
    assert labels(figure.axes[0].get_yticklabels())[:2] == ["x", "draw"]
    images = tiles(figure, 2, 2, 10).reshape(20, 2, 10, 2, 2, 4)
    painted = grey(images[:, 1].reshape(200, 2, 2, 4), 0.0, 1.0)
    first = grey(images[:1, 0, 0], 0.0, 1.0)[0]
    scale, offset = np.polyfit(first, x[0].numpy(), 1)  # the scale of grey, from the data above
    drawn = offset + scale * painted
    mean = np.array([x[0, 0] / 2, x[0, 1] + 1, 2.0, 3.0])
    variance = np.array([0.02, 0.17, 0.01, 0.01])
    assert (np.abs(drawn.mean(0) - mean) < 4 * np.sqrt(variance / 200)).all()
    assert (np.abs(drawn.var(0) - variance) < 4 * variance * np.sqrt(2 / 200)).all()


def test_traversals_move_one_unit_at_a_time():
    """From the mean by the standard deviation of the aggregate posterior, the other unit at the datum's mean."""
    x = data(500)
    figure = lvm.pictures.traversals(linear_model(), guide, x, row=4, num_steps=3, span=2.0, seed=0)
    axes = figure.axes[0]
    assert labels(axes.get_xticklabels()) == ["-2.0", "0", "+2.0"]
    order = np.argsort(-x[:, :2].var(0).numpy())
    assert labels(axes.get_yticklabels()) == [f"z[{unit}]" for unit in order]
    painted = grey(tiles(figure, 2, 2, 3), 0.0, 1.0)
    constants = painted[:, 2:]  # 2 and 3, which give the scale
    scale = 1 / (constants[:, 1] - constants[:, 0])
    z = ((painted[:, :2] - constants[:, :1]) * scale[:, None] + 2 - np.array([0, 1])) / np.array([1, 2])
    base, center = x[4, :2].numpy() / 2, x[:, :2].mean(0).numpy() / 2
    spread = np.sqrt(x[:, :2].var(0, correction=0).numpy() / 4 + np.array([0.1, 0.2]) ** 2)
    for i, unit in enumerate(order):
        moved = z[3 * i : 3 * i + 3]
        np.testing.assert_allclose(moved[:, 1 - unit], base[1 - unit], atol=1e-9)
        error = np.array([0.1, 0.2])[unit] / (10 * 500) ** 0.5  # of mean and of standard deviation: ten draws a datum
        off = moved[:, unit] - center[unit] - np.array([-2, 0, 2]) * spread[unit]
        assert (np.abs(off) < 4.5 * error * (1 + np.array([2, 0, 2]))).all()


def test_units_that_are_asked_for():
    figure = lvm.pictures.traversals(linear_model(), guide, data(5), units=[1], num_steps=2, seed=0)
    assert labels(figure.axes[0].get_yticklabels()) == ["z[1]"]
    again = lvm.pictures.traversals(linear_model(), guide, data(5), units=[1], num_steps=2, draw=True, seed=0)
    assert not np.array_equal(tiles(figure, 2, 2, 2), tiles(again, 2, 2, 2))


def test_ten_units_at_most_the_most_active_first():
    model = lvm.models.VAE(12, lvm.nn.MLP(12, [], 4), lvm.likelihoods.Gaussian())
    scales = torch.linspace(0.1, 1.2, 12)

    def guide(x):
        with lvm.data_plate(x):
            pyro.sample("z", dist.Normal(x[:, :1] * scales, 0.1).to_event(1))

    figure = lvm.pictures.traversals(model, guide, data(6), seed=0)
    assert labels(figure.axes[0].get_yticklabels()) == [f"z[{unit}]" for unit in range(11, 1, -1)]


def test_the_latent_next_to_the_data_is_decoded():
    """z2 lies above z1, and the pictures are of z1."""
    like, x = linear_model(), data(4)
    model = lvm.models.HierarchicalVAE([2, 3], [torch.nn.Linear(3, 4)], like.decoder, like.likelihood)

    def both(x):
        with lvm.data_plate(x):
            pyro.sample("z1", dist.Normal(x[:, :2] / 2, torch.tensor([0.1, 0.2])).to_event(1))
            pyro.sample("z2", dist.Normal(torch.zeros(3), 1.0).to_event(1))

    _, (z, _) = model.sample(4, seed=0)
    found = grey(tiles(lvm.pictures.samples(model, 4, seed=0), 2, 2, 4), 0.0, 1.0)
    means = like.decode(z).detach().numpy()
    np.testing.assert_allclose(found, (means - means.min()) / (means.max() - means.min()), atol=1e-9)
    figure = lvm.pictures.traversals(model, both, x, num_steps=2, seed=0)
    assert sorted(labels(figure.axes[0].get_yticklabels())) == ["z1[0]", "z1[1]"]
    figure = lvm.pictures.reconstructions(model, both, x, num_particles=2000, seed=0)
    below = grey(tiles(figure, 2, 2, 4)[4:], min(x.min().item(), 0), 3.0)
    np.testing.assert_allclose(below[:, 0], x[:, 0] / 2, atol=4.5 * 0.1 / 2000**0.5)


def test_classes_are_decoded_too():
    """x = W (z, one-hot y) + b, with y drawn as well as z."""
    decoder = torch.nn.Linear(2 + 3, 4)
    model = lvm.models.SemiSupervisedVAE(3, 2, decoder, lvm.likelihoods.Gaussian(0.1))
    _, z, y = model.sample(6, seed=0)
    one_hot = torch.eye(3)[y]
    with torch.no_grad():
        means = (torch.cat([z, one_hot], -1) @ decoder.weight.mT + decoder.bias).numpy()
    found = grey(tiles(lvm.pictures.samples(model, 6, seed=0), 2, 2, 6), means.min(), means.max())
    np.testing.assert_allclose(found, means, atol=1e-9)


def test_an_autoregressive_likelihood_is_drawn():
    torch.manual_seed(0)
    model = lvm.models.VAE(2, lvm.nn.MLP(2, [], 5), lvm.likelihoods.Autoregressive(4, 5, [8]))
    amortized = lvm.guides.Amortized(model, lvm.nn.MLP(4, [8], 8))
    x = (data(3) > 0).double()
    lvm.bind(model, amortized, x)
    pictures = lvm.pictures
    for show in (pictures.samples, partial(pictures.reconstructions, guide=amortized, x=x)):
        with pytest.raises(ValueError, match=r"there are no means of x given the latents to show: .* pass draw=True"):
            show(model)
    with pytest.raises(ValueError, match=r"there are no means of x given the latents to show: .* pass draw=True"):
        pictures.traversals(model, amortized, x)
    bits = tiles(pictures.samples(model, 5, draw=True, seed=0), 2, 2, 5)
    assert set(np.unique(bits)) == {0.0, 1.0}
    assert len(tiles(pictures.reconstructions(model, amortized, x, draw=True, seed=0), 2, 2, 3)) == 6
    assert len(tiles(pictures.traversals(model, amortized, x, draw=True, num_steps=4, seed=0), 2, 2, 4)) == 8


def test_bits_are_traversed_from_0_to_1():
    """Others at the value that is more probable; images of values between would be of no datum."""
    model = lvm.models.VAE(2, torch.nn.Linear(2, 4), lvm.likelihoods.Gaussian(0.1), lvm.priors.Bernoulli(2))

    def bits(x):
        with lvm.data_plate(x):
            pyro.sample("z", dist.Bernoulli(torch.tensor([0.7, 0.2]).expand(len(x), 2)).to_event(1))

    figure = lvm.pictures.traversals(model, bits, data(50), units=[0, 1], seed=0)
    assert labels(figure.axes[0].get_xticklabels()) == ["0", "1"]
    means = model.decode(torch.tensor([[0.0, 0.0], [1.0, 0.0], [1.0, 0.0], [1.0, 1.0]])).detach().numpy()
    low, high = (0, 1) if means.min() >= 0 and means.max() <= 1 else (means.min(), means.max())
    np.testing.assert_allclose(grey(tiles(figure, 2, 2, 2), low, high), means, atol=1e-9)


def test_text_is_not_cut_where_images_are_few():
    model = linear_model()
    for figure in (
        lvm.pictures.samples(model, 1, seed=0),
        lvm.pictures.samples(model, 3, seed=0),
        lvm.pictures.traversals(model, guide, data(5), units=[0], num_steps=2, seed=0),
    ):
        figure.draw_without_rendering()
        axes = figure.axes[0]
        for text in (axes._left_title, axes.xaxis.label, *axes.get_yticklabels()):
            box = text.get_window_extent()
            assert box.x0 >= 0
            assert box.x1 <= figure.bbox.x1


@pytest.mark.parametrize(("shape", "height", "width"), [((2, 3), 2, 3), ((1, 3, 2), 3, 2), ([6, 1], 6, 1)])
def test_images_that_are_not_square(shape, height, width):
    model = linear_model(num_features=6)
    x, _ = model.sample(2, seed=0)
    found = tiles(lvm.pictures.samples(model, 2, draw=True, image_shape=shape, seed=0), height, width, 2)
    np.testing.assert_allclose(grey(found, x.min().item(), x.max().item()), x, atol=1e-9)


def test_colors():
    """Red, green and blue come one after the other in a row of data."""
    model = linear_model(num_features=12)
    x, _ = model.sample(1, seed=0)
    (found,) = tiles(lvm.pictures.samples(model, 1, draw=True, image_shape=(3, 2, 2), seed=0), 2, 2, 1)
    painted = (x - x.min()) / (x.max() - x.min())
    np.testing.assert_allclose(found[..., :3], np.moveaxis(painted.numpy().reshape(3, 2, 2), 0, -1), atol=1e-9)


def test_a_figure_has_the_library_s_look():
    with mpl.rc_context({"font.size": 30, "image.cmap": "jet"}):
        figure = lvm.pictures.samples(linear_model(), 2, seed=0)
        assert figure.axes[0].get_title(loc="left") == "means of x given draws of the latents"
        assert figure.axes[0].title.get_fontsize() < 20
    assert figure._repr_png_().startswith(b"\x89PNG")


def test_constant_images():
    """All values alike, and beyond 1: no scale, but a picture."""
    model = linear_model()
    with torch.no_grad():
        model.decoder.weight.zero_()
        model.decoder.bias.fill_(7.0)
    found = tiles(lvm.pictures.samples(model, 2, seed=0), 2, 2, 2)
    np.testing.assert_array_equal(found[..., :3], 0.5)


def test_refused_shapes():
    model, odd = linear_model(), linear_model(num_features=6)
    with pytest.raises(ValueError, match="'image_shape' must be given where .* not square; rows have 6 numbers"):
        lvm.pictures.samples(odd)
    for shape in ((2, 4), (2, 3, 1), (6,), (-2, -3), (1, 1, 2, 3)):
        with pytest.raises(ValueError, match="with 1 or 3 colors and 6 numbers in all, as many as a row has; got"):
            lvm.pictures.samples(odd, image_shape=shape)
    for shape in (4, "22", (2.0, 2.0), (), (True, 4)):
        with pytest.raises(TypeError, match=r"'image_shape' must be \(height, width\) or"):
            lvm.pictures.samples(model, image_shape=shape)


def test_refused_models_and_data():
    model, x = linear_model(), data(5)
    with pytest.raises(TypeError, match="'model' must have the method 'sample', .* got function. Pass result.model"):
        lvm.pictures.samples(guide)
    for picture in (lvm.pictures.reconstructions, lvm.pictures.traversals):
        with pytest.raises(TypeError, match="'model' must have the method 'decode', .* got function"):
            picture(guide, guide, x)
        with pytest.raises(ValueError, match="'x' has 3 features"):
            picture(model, guide, x[:, :3])
        with pytest.raises(ValueError, match="'x' must have shape"):
            picture(model, guide, x[0])
    with pytest.raises(ValueError, match="'x' must have at most 400 rows to be shown; got 401"):
        lvm.pictures.reconstructions(model, guide, data(401))
    with pytest.raises(ValueError, match="'n' must be at most 400; got 401"):
        lvm.pictures.samples(model, 401)
    with pytest.raises(TypeError, match="'n' must be an integer; got 2.0"):
        lvm.pictures.samples(model, 2.0)
    with pytest.raises(ValueError, match="'num_particles' must be at least 1; got 0"):
        lvm.pictures.reconstructions(model, guide, x, num_particles=0)
    amortized = lvm.guides.Amortized(model, torch.nn.Linear(4, 8))
    with pytest.raises(ValueError, match="does not exist: the pair has not been fitted"):
        lvm.pictures.reconstructions(model, amortized, x)


def test_refused_traversals():
    show = partial(lvm.pictures.traversals, linear_model(), guide, data(5))
    for options in ({"num_steps": 1}, {"span": 0.0}, {"span": float("inf")}):
        with pytest.raises(ValueError, match="'num_steps' must be at least 2 and 'span' positive; got"):
            show(**options)
    with pytest.raises(ValueError, match="'row' must be the number of a row of 'x', which has 5; got 5"):
        show(row=5)
    for row in (1.0, True, "1"):
        with pytest.raises(TypeError, match="'row' must be an integer; got"):
            show(row=row)
    for span in ("2", None, True):
        with pytest.raises(TypeError, match="'span' must be a number; got"):
            show(span=span)
    with pytest.raises(ValueError, match=r"'units' must be one or more of 0\.\.1, the units of the latent; got \[2\]"):
        show(units=[2])
    with pytest.raises(ValueError, match=r"'units' must be one or more of 0\.\.1, the units of the latent; got \[\]"):
        show(units=[])
    for units in (1, [0.0], [True]):
        with pytest.raises(TypeError, match="'units' must be a sequence of integers"):
            show(units=units)
    with pytest.raises(ValueError, match="at most 400 images can be shown; got 2 units x 201 steps"):
        show(num_steps=201)
