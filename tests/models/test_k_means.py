import numpy as np
import pytest
import sklearn.cluster
import sklearn.datasets
import torch

from pyrolvm.datasets import faithful
from pyrolvm.models._mixtures.k_means import k_means


def standardized(x):
    return (x - x.mean(0)) / x.std(0, correction=0)


def inertia(x, labels):
    """Sum of squared distances from the means of the clusters, in standardized columns."""
    rows = standardized(x)
    return sum((rows[labels == k] - rows[labels == k].mean(0)).square().sum().item() for k in labels.unique())


def blobs():
    x, _ = sklearn.datasets.make_blobs(600, 4, centers=12, cluster_std=1.5, random_state=0)
    return torch.tensor(x)


DATA = {
    "blobs": (blobs, 12),
    "digits": (lambda: torch.tensor(sklearn.datasets.load_digits().data[:, 2:7]), 10),
    "faithful": (lambda: torch.tensor(faithful().x), 3),
    "no clusters": (lambda: torch.rand(500, 3, generator=torch.Generator().manual_seed(0)), 8),
}


@pytest.mark.parametrize("name", list(DATA))
def test_as_good_as_sklearns(name):
    """Inertia of one run each from many seeds: the means differ by less than three standard errors, or 1 %."""
    make, num_clusters = DATA[name]
    x, seeds = make(), range(40)
    ours = np.array([inertia(x, labels) for labels in k_means(x, num_clusters, list(seeds)).labels])
    rows = standardized(x).numpy()
    theirs = np.array(
        [sklearn.cluster.KMeans(num_clusters, n_init=1, random_state=s).fit(rows).inertia_ for s in seeds]
    )
    error = np.sqrt(ours.var() / len(ours) + theirs.var() / len(theirs))
    assert ours.mean() < theirs.mean() + max(3 * error, 0.01 * theirs.mean())
    assert ours.min() < 1.01 * theirs.min()


def test_as_good_as_sklearns_in_the_datas_own_units():
    """On bits, where a rare one would be far from the rest in standard deviations."""
    x = torch.tensor(sklearn.datasets.load_digits().data[:500] >= 8).double()
    labels, centers = k_means(x, 8, list(range(20)), standardized=False)
    ours = np.array([(x - center[label]).square().sum().item() for label, center in zip(labels, centers, strict=True)])
    theirs = np.array([sklearn.cluster.KMeans(8, n_init=1, random_state=s).fit(x.numpy()).inertia_ for s in range(20)])
    error = np.sqrt(ours.var() / len(ours) + theirs.var() / len(theirs))
    assert ours.mean() < theirs.mean() + max(3 * error, 0.01 * theirs.mean())
    assert ours.min() < 1.01 * theirs.min()


def test_runs_at_once_are_those_one_by_one():
    x, seeds = blobs(), [3, 0, 7, 3]
    together = k_means(x, 9, seeds)
    for i, seed in enumerate(seeds):
        alone = k_means(x, 9, [seed])
        assert (together.labels[i] == alone.labels[0]).all()
        torch.testing.assert_close(together.centers[i], alone.centers[0], rtol=1e-12, atol=1e-12)
    assert (together.labels[0] != together.labels[1]).any()


def test_labels_are_of_the_nearest_center_and_centers_in_the_datas_units():
    x = blobs() * torch.tensor([1.0, 1e3, 1e-3, 1.0]) + 1e4
    labels, centers = k_means(x, 5, [0])
    spread = x.std(0, correction=0)
    assert (torch.cdist(x / spread, centers[0] / spread).argmin(-1) == labels[0]).all()
    means = torch.stack([x[labels[0] == k].mean(0) for k in range(5)])
    assert ((means - centers[0]) / spread).abs().max() < 0.05


def test_rows_in_chunks(monkeypatch):
    x = blobs()
    whole = k_means(x, 6, [0, 1])
    monkeypatch.setattr("pyrolvm.models._mixtures.k_means._AT_ONCE", 100)
    assert (k_means(x, 6, [0, 1]).labels == whole.labels).all()


def test_a_cluster_for_each_distinct_row():
    distinct = torch.tensor([[0.0, 1.0], [1.0, 0.0], [5.0, 5.0], [5.0, 5.1]])
    labels = k_means(distinct.repeat(25, 1), 4, [0, 1, 2]).labels
    for run in labels:
        assert run.unique().tolist() == [0, 1, 2, 3]
        assert all((run[k::4] == run[k]).all() for k in range(4))


def test_vacant_clusters_are_moved_to_far_rows():
    from pyrolvm.models._mixtures.k_means import _lloyd

    x = blobs()
    centers = torch.cat([x[:1], torch.full((2, 4), 1e6)]).unsqueeze(0)
    _, counts, labels = _lloyd(x, centers)
    assert (counts > 0).all()
    assert labels[0].unique().tolist() == [0, 1, 2]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_data_far_from_the_origin(dtype):
    x = blobs() - blobs().mean(0)
    near, far = k_means(x.to(dtype), 6, [0]), k_means((x + 4096).to(dtype), 6, [0])
    assert (near.labels == far.labels).all()


def test_one_cluster_and_constant_columns():
    x = torch.cat([blobs(), torch.ones(600, 1)], 1)
    labels, centers = k_means(x, 1, [0])
    assert (labels == 0).all()
    torch.testing.assert_close(centers[0, 0], x.mean(0))
    assert k_means(x, 12, [0]).labels.unique().numel() == 12


def test_too_few_rows_are_refused():
    with pytest.raises(ValueError, match=r"at least as many rows as components, 4; got 3\. Pass num_components=3"):
        k_means(torch.randn(3, 2), 4, [0])
    with pytest.raises(ValueError, match=r"as many distinct rows as components, 4; got 3\. Pass num_components=3"):
        k_means(torch.randn(3, 2).repeat(5, 1), 4, [0])


def test_seeds_leave_the_callers_generator_alone():
    x, state = blobs(), torch.get_rng_state()
    k_means(x, 3, [0, 1])
    assert (torch.get_rng_state() == state).all()
    k_means(x, 3, [None])
    assert (torch.get_rng_state() != state).any()


@pytest.mark.gpu
def test_on_the_device():
    x = blobs()
    assert (k_means(x.cuda(), 12, [0, 1]).labels.cpu() == k_means(x, 12, [0, 1]).labels).all()
