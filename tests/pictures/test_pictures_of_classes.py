"""Pictures of models with classes: a linear decoder's images, the class by Bayes' rule."""

from functools import partial

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pictures.test_pictures import grey, labels, tiles
from posterior.linear_classes import Switched
from scipy import stats

import pyrolvm as lvm

CENTERS = np.array([[3.0, 0.0, 0.2, 1.0], [0.0, 2.0, 1.0, 0.0], [1.0, 1.0, 4.0, 2.0]])
WEIGHT = np.array([[1.0, 0.0], [0.0, 2.0], [0.0, 0.0], [0.5, -1.0]])
SCALE = 0.8
X = torch.tensor([[1.5, 1.2, 0.8, 0.7], [3.0, 0.0, 0.0, 1.0], [1.2, 1.0, 2.3, 1.6], [0.8, 0.9, 1.2, 0.4]])


def semi_supervised(scale=SCALE):
    """x | y, z ~ N(W z + center_y, scale^2 I), classes equally probable."""
    decoder = torch.nn.Linear(2 + 3, 4)
    with torch.no_grad():
        decoder.weight.copy_(torch.tensor(np.concatenate([WEIGHT, CENTERS.T], 1)))
        decoder.bias.zero_()
    return lvm.models.SemiSupervisedVAE(3, 2, decoder, lvm.likelihoods.Gaussian(scale))


def latents(x):
    return x[:, :2] / 8


def guide(x, labels=None):
    """Almost a point, so that the class given the draws is known."""
    with lvm.data_plate(x):
        pyro.sample("z", dist.Normal(latents(x), 1e-4).to_event(1))


def classes(x, scale=SCALE):
    """p(y | z, x) with z where the guide draws it, and the images of each class, (N, 3, 4)."""
    means = latents(x).numpy()[:, None] @ WEIGHT.T + CENTERS
    joint = stats.norm.pdf(x.numpy()[:, None], means, scale).prod(-1)
    return joint / joint.sum(-1, keepdims=True), means


@pytest.mark.parametrize("known", [[-1, -1, -1, -1], [-1, 2, -1, 0], [1, 2, 0, 0]])
def test_reconstructions_are_means_over_the_classes(known):
    """sum_y p(y | z, x) (W z + center_y), up to the error of K draws of y; a label's own image where there is one."""
    num_particles, known = 2000, np.array(known)
    args = (X, known) if (known >= 0).any() else (X,)
    figure = lvm.pictures.reconstructions(semi_supervised(), guide, *args, num_particles=num_particles, seed=0)
    assert labels(figure.axes[0].get_yticklabels()) == ["x", "mean"]
    probabilities, means = classes(X)
    probabilities = np.where(known[:, None] < 0, probabilities, np.arange(3) == known[:, None])
    truth = (probabilities[..., None] * means).sum(1)
    error = np.sqrt((probabilities[..., None] * (means - truth[:, None]) ** 2).sum(1) / num_particles)
    shown = tiles(figure, 2, 2, 4)
    whole = grey(shown, 0.0, 1.0)
    scale, offset = np.polyfit(whole[:4].ravel(), X.numpy().ravel(), 1)  # the scale of grey, from the data above
    assert (np.abs(offset + scale * whole[4:] - truth) < 4.5 * error + 2e-3).all()
    if (known < 0).all():
        assert np.sort(probabilities[0])[1] > 0.1


def test_one_draw_of_class_and_image():
    """Without noise each draw is the image of one class, and classes come as often as they are probable."""
    x, num_rows = X[:1].expand(400, 4), 400
    figure = lvm.pictures.reconstructions(semi_supervised(), guide, x, draw=True, seed=0)
    images = tiles(figure, 2, 2, 10).reshape(40, 2, 10, 2, 2, 4)
    painted = grey(images[:, 1].reshape(400, 2, 2, 4), 0.0, 1.0)
    scale, offset = np.polyfit(grey(images[:1, 0, 0], 0.0, 1.0)[0], X[0].numpy(), 1)
    found = offset + scale * painted
    probabilities, means = (each[0] for each in classes(X[:1]))
    mean = probabilities @ means
    variance = probabilities @ (means - mean) ** 2 + SCALE**2
    assert (np.abs(found.mean(0) - mean) < 4.5 * np.sqrt(variance / num_rows)).all()
    spread = (found - mean) ** 2
    assert (np.abs(spread.mean(0) - variance) < 4.5 * spread.std(0) / num_rows**0.5).all()


@pytest.mark.parametrize(("row", "label"), [(0, -1), (1, -1), (2, 0), (-1, 1)])
def test_traversals_keep_the_class_of_the_datum(row, label):
    """Its label, or the class that is the most probable; the axes are of z alone."""
    known = torch.full((4,), -1)
    known[row] = label
    model = semi_supervised()
    kept = classes(X)[0][row].argmax() if label < 0 else label
    figure = lvm.pictures.traversals(model, guide, X, known, row=row, units=[1, 0], num_steps=3, span=2.0, seed=0)
    axes = figure.axes[0]
    assert axes.get_title(loc="left") == f"y = {kept}"
    assert labels(axes.get_yticklabels()) == ["z[1]", "z[0]"]
    z = latents(X).numpy()
    path = np.tile(z[row], (6, 1))
    for i, unit in enumerate((1, 0)):
        path[3 * i : 3 * i + 3, unit] = z[:, unit].mean() + np.array([-2, 0, 2]) * z[:, unit].std()
    means = path @ WEIGHT.T + CENTERS[kept]
    low, high = (0, 1) if means.min() >= 0 and means.max() <= 1 else (means.min(), means.max())
    np.testing.assert_allclose(grey(tiles(figure, 2, 2, 3), low, high), means, atol=2e-3)
    for seed in range(5):
        again = lvm.pictures.traversals(model, guide, X, known, row=row, num_steps=2, draw=True, seed=seed)
        assert again.axes[0].get_title(loc="left") == f"y = {kept}"


def test_float32_where_the_guide_draws_the_class():
    """A guide may draw the class itself; the image is then that of its class. One row is enough."""
    torch.set_default_dtype(torch.float32)

    def both(x):
        with lvm.data_plate(x):
            pyro.sample("y", dist.Categorical(torch.tensor([0.0, 0.0, 1.0]).expand(len(x), 3)))
            pyro.sample("z", dist.Normal(latents(x), 1e-4).to_event(1))

    x = X[1:3].float()
    whole = grey(tiles(lvm.pictures.reconstructions(semi_supervised(), both, x, seed=0), 2, 2, 2), 0.0, 1.0)
    scale, offset = np.polyfit(whole[:2].ravel(), x.numpy().ravel(), 1)
    np.testing.assert_allclose(offset + scale * whole[2:], classes(x)[1][:, 2], atol=2e-3)
    figure = lvm.pictures.traversals(semi_supervised(), both, x[:1], num_steps=2, seed=0)
    assert figure.axes[0].get_title(loc="left") == "y = 2"


def test_components_of_a_prior_do_not_matter():
    """Behind a mixture prior the image is that of z, as behind any other."""
    prior = lvm.priors.NormalMixture(3, 2)
    like = semi_supervised()
    decoder = torch.nn.Linear(2, 4)
    with torch.no_grad():
        decoder.weight.copy_(torch.tensor(WEIGHT))
        decoder.bias.fill_(1.0)
    model = lvm.models.VAE(2, decoder, like.likelihood, prior)
    figure = lvm.pictures.reconstructions(model, guide, X, seed=0)
    whole = grey(tiles(figure, 2, 2, 4), 0.0, 1.0)
    scale, offset = np.polyfit(whole[:4].ravel(), X.numpy().ravel(), 1)
    np.testing.assert_allclose(offset + scale * whole[4:], latents(X).numpy() @ WEIGHT.T + 1.0, atol=2e-3)
    assert lvm.pictures.traversals(model, guide, X, num_steps=2, seed=0).axes[0].get_title(loc="left") == ""


class Told(Switched):
    """Its means given the bit."""

    def forward(self, x=None, columns=None, *, size=1):
        return super().forward(x, size=size)

    def decode(self, z, bit, scale=1.0):
        return scale * self._mean(z * (2 * bit - 1).unsqueeze(-1))


class Misnamed(Switched):
    def decode(self, z, sign):
        return self._mean(z * sign.unsqueeze(-1))


def test_classes_that_decode_does_not_take():
    like = semi_supervised().likelihood
    switched, told, misnamed = (kind(2, torch.nn.Linear(2, 4), like) for kind in (Switched, Told, Misnamed))
    pictures = lvm.pictures.reconstructions, lvm.pictures.traversals
    for show in pictures:
        show(told, guide, X, seed=0)
        for draw in (False, True):
            with pytest.raises(ValueError, match=r"'x' depends on 'bit', .* not take\. Write decode\(z, bit\), its"):
                show(switched, guide, X, draw=draw)
        with pytest.raises(ValueError, match=r"'decode' takes 'sign', which is no latent inside the data plate\. Call"):
            show(misnamed, guide, X)
    with pytest.raises(
        ValueError, match=r"row-aligned tensors as arguments, all as long as 'x'\. Bind others to model"
    ):
        lvm.pictures.traversals(told, guide, X[:3], torch.zeros(4))


def test_refused_labels():
    for show in (lvm.pictures.reconstructions, lvm.pictures.traversals):
        with pytest.raises(ValueError, match=r"'labels' must hold labels in 0\.\.2, or -1 .*; row 0 holds 3"):
            show(semi_supervised(), guide, X, torch.tensor([3, 0, 0, 0]))
    show = partial(lvm.pictures.traversals, semi_supervised(), guide, X, row=4)
    with pytest.raises(ValueError, match="'row' must be the number of a row of 'x', which has 4; got 4"):
        show()
