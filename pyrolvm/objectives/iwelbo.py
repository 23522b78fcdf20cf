"""The importance-weighted evidence lower bound."""

from pyrolvm.objectives.importance_weighted import ImportanceWeighted

__all__ = ["IWELBO"]


class IWELBO(ImportanceWeighted):
    """The importance-weighted bound, E[log 1/K sum_k w_k] with w_k = p(x, z_k) / q(z_k | x).

    Tighter than the ELBO and rising to log p(x) with K. It trains the model better, and the guide worse as K grows:
    the signal-to-noise ratio of the guide's gradient falls as K^(-1/2) (:class:`DReG` mends that). The logarithm is
    taken for each datum, and the scale N/B of a minibatch multiplies it from outside, so any batch gives a valid bound.

    Sites without a reparameterized gradient get a score-function gradient with the leave-one-out control variate of
    Mnih and Rezende.

    Args:
        num_particles: K, draws of the locals for each draw of the globals; whole draws where weights are joint, where
            only globals are drawn, and with ``over="all"``.
        num_global_particles: M, draws of the globals, over which the bound is averaged.
        over: "local" weights the latents inside the data plate, given the others, whose own term is an ELBO; "all"
            weights the globals too, and needs the full data.
        max_plate_nesting: Dimensions kept free for plates; None for as many as the programs use.
        vectorize_particles: Run particles at once where the programs broadcast over them; False for one by one.
        data_plate: Name of the data plate; None to find it.

    Raises:
        ValueError: If a count is below 1, or ``over`` is neither "local" nor "all".

    References:
        Burda, Grosse and Salakhutdinov (2016), Importance weighted autoencoders, Eq. 8.
        Rainforth et al. (2018), Tighter variational bounds are not necessarily better.
        Mnih and Rezende (2016), Variational inference for Monte Carlo objectives, Eq. 10.

    Example:
        >>> import pyro, torch, pyro.distributions as dist
        >>> def model():
        ...     pyro.sample("z", dist.Normal(0.0, 1.0))
        >>> IWELBO(num_particles=8).bound(model, model).item()
        0.0
    """
