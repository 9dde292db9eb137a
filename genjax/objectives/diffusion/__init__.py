"""Diffusion and flow models: a noise path, a parameterization, training times and weights."""
