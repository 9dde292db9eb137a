"""Solvers that take any denoiser, noise paths, guidance. None knows a network or a loss."""
