"""What the hidden Markov model is made of: emissions, recursions, both steps of EM, checks of sequences."""
