"""What models with standard normal latents share: program, densities, both steps of EM of the linear ones."""
