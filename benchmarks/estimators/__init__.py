"""How far each estimator's baseline is from the truth, and for how many rollouts, on real outcomes of language models."""
