"""Deep models on real data: what objectives, guides and likelihoods are worth in held-out log p(x)."""
