"""What the Bayesian models with known posteriors share: distributions of series and of ordered values, checks."""
