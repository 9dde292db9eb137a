"""A VAE of which all is known: x = W z + MEAN + SIGMA eps, z ~ N(0, I), four pixels from two latents."""

import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from genjax.networks.layers import NO_COND

W = np.array([[0.5, 0.3], [0.2, 0.4], [-0.6, -0.1], [0.3, 0.7]])  # linear decoder, 4 pixels from 2 latents
MEAN, SIGMA = np.array([0.1, -0.2, 0.0, 0.3]), 0.4


class Decoder(nn.Module):
  @nn.compact
  def __call__(self, z, cond=NO_COND, train=True):
    mean = self.param('shift', nn.initializers.zeros, (4,)) + jnp.asarray(MEAN, jnp.float32)
    return (z @ jnp.asarray(W.T, jnp.float32) + mean[None]).reshape(-1, 2, 2, 1)


class Encoder(nn.Module):
  """The posterior of the linear-Gaussian model, if its covariance were diagonal: its mean, and 1 / diag(precision)."""

  z_dim: int = 2

  @nn.compact
  def __call__(self, x, cond=NO_COND, train=True):
    precision = np.eye(2) + W.T @ W / SIGMA**2
    mean = (x.reshape(-1, 4) - MEAN[None]) @ (W / SIGMA**2) @ np.linalg.inv(precision)
    log_var = self.param('wider', nn.initializers.zeros, (2,)) - jnp.log(jnp.asarray(np.diag(precision), jnp.float32))
    return mean + self.param('shift', nn.initializers.zeros, (2,))[None], jnp.broadcast_to(log_var[None], mean.shape)


def evidence(x):
  """log p(x), [B] for x [B, 4]: Gaussian with covariance W W' + SIGMA^2 I."""
  covariance = W @ W.T + SIGMA**2 * np.eye(4)
  apart = x - MEAN
  mahalanobis = (apart * np.linalg.solve(covariance, apart.T).T).sum(axis=1)
  return -0.5 * (mahalanobis + np.linalg.slogdet(2 * np.pi * covariance)[1])


def gap():
  """KL(q(z|x) || p(z|x)), the same for all x."""
  precision = np.eye(2) + W.T @ W / SIGMA**2
  q = np.diag(1 / np.diag(precision))
  return 0.5 * (np.trace(precision @ q) - 2 - np.linalg.slogdet(precision @ q)[1])
