"""Variational and adversarial autoencoders."""
