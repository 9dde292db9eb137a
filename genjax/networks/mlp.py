"""Fully connected networks for small images of any shape: encoder, decoder, generator, discriminator."""

import math

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from genjax.networks.layers import LABEL, NO_COND, DiscriminatorHead, LatentInput, concat_label, condition_vector
from genjax.types import Cond


class Hidden(nn.Module):
  """`depth` layers of `width` units with LeakyReLU (slope 0.2)."""

  width: int
  depth: int
  dtype: str

  @nn.compact
  def __call__(self, h: Float[Array, 'b d']) -> Float[Array, 'b w']:
    for _ in range(self.depth):
      h = nn.leaky_relu(nn.Dense(self.width, dtype=self.dtype)(h), 0.2)
    return h


class MLPEncoder(nn.Module):
  """Image [B, H, W, C] -> mean and log-variance of q(z|x), each [B, z_dim]."""

  z_dim: int = 16
  width: int = 256
  depth: int = 2
  dtype: str = 'float32'

  fields = LABEL

  @nn.compact
  def __call__(self, x: Float[Array, 'b h w c'], cond: Cond = NO_COND, train: bool = True):
    label = condition_vector(cond, self.fields)
    h = concat_label(x.reshape(x.shape[0], -1), label)
    h = Hidden(self.width, self.depth, self.dtype)(h)
    return jnp.split(nn.Dense(2 * self.z_dim)(h.astype(jnp.float32)), 2, axis=-1)


class MLPDecoder(nn.Module):
  """Latent [B, z_dim] -> parameters of p(x|z), float32 [B, H, W, outputs]."""

  image_shape: tuple[int, int, int]
  width: int = 256
  depth: int = 2
  dtype: str = 'float32'
  outputs: int | None = None  # channels of the output; None: those of the image

  fields = LABEL

  @nn.compact
  def __call__(self, z: Float[Array, 'b z'], cond: Cond = NO_COND, train: bool = True):
    label = condition_vector(cond, self.fields)
    h = nn.leaky_relu(LatentInput(self.width, self.dtype)(z, label), 0.2)
    h = Hidden(self.width, self.depth - 1, self.dtype)(h)
    shape = (*self.image_shape[:2], self.outputs or self.image_shape[2])
    return nn.Dense(math.prod(shape))(h.astype(jnp.float32)).reshape(-1, *shape)


class MLPGenerator(nn.Module):
  """Latent [B, z_dim] -> image in [-1, 1], float32 [B, H, W, C]."""

  image_shape: tuple[int, int, int]
  z_dim: int = 32
  width: int = 256
  depth: int = 2
  dtype: str = 'float32'

  fields = LABEL

  @nn.compact
  def __call__(self, z: Float[Array, 'b z'], cond: Cond = NO_COND, train: bool = True):
    return jnp.tanh(MLPDecoder(self.image_shape, self.width, self.depth, self.dtype)(z, cond))


class MLPDiscriminator(nn.Module):
  """Image [B, H, W, C] -> logit of being real, float32 [B]; [B, 1 + K] with class logits if `conditioning` is 'classifier'."""

  width: int = 256
  depth: int = 2
  conditioning: str = 'concat'
  dtype: str = 'float32'

  fields = LABEL

  @nn.compact
  def __call__(self, x: Float[Array, 'b h w c'], cond: Cond = NO_COND, train: bool = True):
    label = condition_vector(cond, self.fields)
    h = concat_label(x.reshape(x.shape[0], -1), label if self.conditioning == 'concat' else None)
    return DiscriminatorHead(self.conditioning, name='Verdict_0')(Hidden(self.width, self.depth, self.dtype)(h), label)
