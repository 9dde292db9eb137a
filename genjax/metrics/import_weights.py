"""Converts weights of a PyTorch network to parameters of a Flax network."""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from genjax import rng
from genjax.errors import UsageError


def convert(
  network: nn.Module, side: int, tensors: Mapping[str, np.ndarray], norm_of: Callable[[str], str | None], file: str
) -> dict:
  """Parameters of a Flax network whose modules have the names of the PyTorch one, batch normalization (eps 1e-3) folded in.

  Args:
    network: a network of images [B, side, side, 3] whose modules have the names of the tensors without '.weight' and '.bias'.
    norm_of: name of a convolution -> name of the normalization after it; None for a dense layer.
    file: the expected file of the tensors, for error messages.

  Raises:
    UsageError: an array is missing or has another shape.
  """
  like = jax.eval_shape(network.init, rng.key(0), jnp.zeros((1, side, side, 3)))['params']

  def array(name):
    if name not in tensors:
      raise UsageError(f'the weights have no array {name}: use the file {file}.')
    return np.asarray(tensors[name], np.float64)

  def value(path, leaf):
    *modules, kind = (part.key for part in path)
    name = '.'.join(modules)
    norm = norm_of(name)
    if norm is None:
      weight = array(f'{name}.weight').T if kind == 'kernel' else array(f'{name}.bias')
    else:
      scale = array(f'{norm}.weight') / np.sqrt(array(f'{norm}.running_var') + 1e-3)
      if kind == 'kernel':
        weight = array(f'{name}.weight').transpose(2, 3, 1, 0) * scale
      else:
        weight = array(f'{norm}.bias') - array(f'{norm}.running_mean') * scale
    if weight.shape != leaf.shape:
      raise UsageError(f'the weights have {name} of shape {weight.shape}, not {leaf.shape}: use the file {file}.')
    return weight.astype(np.float32)

  return jax.tree_util.tree_map_with_path(value, like)
