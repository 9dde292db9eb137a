"""Noise paths, time grids, solvers that take any denoiser, guidance. None knows a network or a loss."""
