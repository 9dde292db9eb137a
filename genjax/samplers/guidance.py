"""From denoisers to a denoiser: guidance, and a model on the path of another."""

import jax.numpy as jnp

from genjax.samplers.paths import NoisePath, deviation, ratio
from genjax.samplers.solvers import Denoiser


def guided(denoise: Denoiser, guide: Denoiser, scale: float, path: NoisePath, interval: tuple[float, ...] = ()) -> Denoiser:
  """Away from another denoiser, the guide: D_g + scale (D - D_g). 1 is no guidance, 0 the guide alone.

  Classifier-free guidance (2207.12598) if `guide` is the unconditional model; autoguidance (2406.02507, eq. 3) if it is a
  smaller or less trained one under the same condition.

  Args:
    interval: (low, high): guide where low < sigma / alpha <= high alone (2404.07724); (): everywhere.
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
  """`denoise`, a model's on its `own` path, on another: at the x_t and the time that have the same sigma / alpha.

  What `path` has beyond the end of `own` is seen as that end.
  """

  def on(x, t):
    time = own.time(jnp.minimum(ratio(path, t), ratio(own, jnp.asarray(own.end))))
    scale = deviation(own, time) / deviation(path, t)
    return denoise(jnp.reshape(scale, (*scale.shape, *[1] * (x.ndim - scale.ndim))) * x, time)

  return denoise if own == path else on
