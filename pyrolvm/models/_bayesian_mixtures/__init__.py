"""What the Bayesian Gaussian mixture is made of: conjugate priors, the posterior, both steps of variational Bayes."""
