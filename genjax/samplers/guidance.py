"""Transformations of denoisers: guidance, and evaluation of a model on another path."""

import jax.numpy as jnp

from genjax.samplers.paths import NoisePath
from genjax.samplers.process import deviation, ratio
from genjax.samplers.solvers import Denoiser


def guided(denoise: Denoiser, guide: Denoiser, scale: float, path: NoisePath, interval: tuple[float, ...] = ()) -> Denoiser:
  """The guided denoiser D_g + scale (D - D_g), where D_g is `guide`. Scale 1 is no guidance, and 0 is only the guide.

  This is classifier-free guidance (2207.12598) if `guide` is the unconditional model, and autoguidance (2406.02507, eq. 3) if
  it is a smaller or less trained model with the same conditions.

  Args:
    interval: (low, high): guide only where low < sigma / alpha <= high (2404.07724); (): everywhere.
  """

  def denoise_guided(x, t):
    d, d_g = denoise(x, t), guide(x, t)
    mixed = d_g + scale * (d - d_g)
    if not interval:
      return mixed
    low, high = interval
    level = ratio(path, t)
    within = (low < level) & (level <= high)
    return jnp.where(within[:, None, None, None] if level.ndim else within, mixed, d)

  return denoise_guided


def on_path(denoise: Denoiser, own: NoisePath, path: NoisePath) -> Denoiser:
  """Evaluates a denoiser of the path `own` on another `path`, at the x_t and the time with the same sigma / alpha.

  Noise levels of `path` beyond the end of `own` are clipped to this end.
  """

  def on(x, t):
    time = own.time(jnp.minimum(ratio(path, t), ratio(own, jnp.asarray(own.end))))
    scale = deviation(own, time) / deviation(path, t)
    return denoise(jnp.reshape(scale, (*scale.shape, *[1] * (x.ndim - scale.ndim))) * x, time)

  return denoise if own == path else on
