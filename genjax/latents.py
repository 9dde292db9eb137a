"""Latent interpolation and style mixing."""

import io
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8
from PIL import Image

from genjax import rng
from genjax.errors import UsageError
from genjax.files import write_whole
from genjax.images import enlarge
from genjax.objectives.gan.gan import AdversarialGame
from genjax.types import Cond, HasLatents, HasStyles, Images, Keys, Variables

MOVING = ('.gif', '.webp')  # suffixes of animations
AT_ONCE = 64  # images per batch


def slerp(a: Float[Array, 'd'], b: Float[Array, 'd'], t: Float[Array, '']) -> Float[Array, 'd']:
  """Spherical interpolation from a (t = 0) to b (t = 1) with linear interpolation of the norm.

  Unlike linear interpolation it keeps the norm typical of a normal distribution. It is linear for parallel a and b.
  """
  lengths = jnp.linalg.norm(a), jnp.linalg.norm(b)
  angle = jnp.arccos(jnp.clip(a @ b / (lengths[0] * lengths[1]), -1, 1))
  sine = jnp.sin(angle)
  safe = jnp.where(sine > 1e-4, sine, 1)
  weights = [jnp.where(sine > 1e-4, jnp.sin(angle * part) / safe, part) for part in (1 - t, t)]
  direction = weights[0] * a / lengths[0] + weights[1] * b / lengths[1]
  return direction * ((1 - t) * lengths[0] + t * lengths[1])


def walk(objective: HasLatents, variables: Variables, keys: Keys, cond: Cond, frames: int, truncation: float) -> Images:
  """Interpolates in `frames` images through the latents of `keys` [S] and back to the first, with the noise of the first.

  `cond` has the conditions of one image, [1, ...], for all.
  """
  stops = objective.latents(keys)
  position = jnp.arange(frames) * len(keys) / frames
  here = position.astype(jnp.int32)
  z = jax.vmap(slerp)(stops[here], stops[(here + 1) % len(keys)], position - here)
  embedded = objective.conditioner.embed(cond)
  image = lambda z: objective.from_latents(variables, z[None], embedded, keys[:1], truncation)[0]  # noqa: E731
  return jnp.clip(jax.lax.map(image, z, batch_size=AT_ONCE), -1, 1)


def mix(objective: AdversarialGame, variables: Variables, keys: Keys, cond: Cond, layer: int, truncation: float) -> Images:
  """All pairs of `keys` [n]: image n i + j has the styles of i below `layer` and those of j from there on (1812.04948, 3.1).

  Raises UsageError for a generator without styles, or a layer that it does not have.
  """
  generator, n = objective.generator, len(keys)
  if not isinstance(generator, HasStyles):
    raise UsageError(f'{type(generator).__name__} has no styles to mix: use StyleGAN2Generator.')
  if not 0 < layer < generator.num_ws:
    raise UsageError(f'layer {layer} must be from 1 to {generator.num_ws - 1}, the last style of this generator.')
  cond = jax.tree.map(lambda x: jnp.broadcast_to(x, (n, *x.shape[1:])), dict(cond))
  w = objective.styles(variables, objective.latents(keys), objective.conditioner.embed(cond), truncation)
  below = (jnp.arange(generator.num_ws) < layer)[:, None]

  def image(number):
    coarse, fine = number // n, number % n
    styles = jnp.where(below, w[coarse][None], w[fine][None])  # [layers, w]
    return objective.from_styles(variables, styles[None], keys[coarse][None])[0]

  return jnp.clip(jax.lax.map(image, jnp.arange(n * n), batch_size=AT_ONCE), -1, 1)


def save_frames(path: str, frames: UInt8[np.ndarray, 'n h w c'], seconds: float = 4.0) -> None:
  """Writes a looping animation, .gif or .webp. Raises UsageError for another suffix, or a file that cannot be written."""
  if not path.lower().endswith(MOVING):
    raise UsageError(f'{path}: the name of an animation must end in {", ".join(MOVING)}.')
  large = [enlarge(frame, max(1, 128 // frame.shape[0])) for frame in frames]
  first, *rest = [Image.fromarray(x[..., 0] if x.shape[-1] == 1 else x) for x in large]
  file = io.BytesIO()
  options = {'save_all': True, 'append_images': rest, 'duration': round(1000 * seconds / len(frames)), 'loop': 0}
  first.save(file, Path(path).suffix[1:], **options)
  write_whole(Path(path), file.getvalue())


def keys_of(key: jax.Array, n: int) -> Keys:
  """The keys of the first `n` images that `run.sample(key, ...)` draws."""
  return rng.image_keys(key, jnp.arange(n))
