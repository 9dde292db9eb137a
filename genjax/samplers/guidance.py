"""Guidance: from denoisers to a denoiser."""

from genjax.samplers.solvers import Denoiser


def classifier_free(conditional: Denoiser, unconditional: Denoiser, scale: float) -> Denoiser:
  """Classifier-free guidance (2207.12598), D_u + scale (D_c - D_u): 1 is no guidance, 0 the unconditional model."""

  def denoise(x, t):
    d_u = unconditional(x, t)
    return d_u + scale * (conditional(x, t) - d_u)

  return denoise
