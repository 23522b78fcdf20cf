"""What mixtures share: program, densities, starts, both steps of EM."""
