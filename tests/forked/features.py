"""Features for an evaluation without labels: random projections of the pixels."""

import jax
import jax.numpy as jnp


def projections(images):
  flat = images.reshape(len(images), -1).astype(jnp.float32) / 255
  return jnp.tanh(flat @ jax.random.normal(jax.random.key(0), (flat.shape[1], 16)))
