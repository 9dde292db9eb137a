"""The contract between objectives, the step and whoever samples.

Images are float32 [B, H, W, C] in [-1, 1]. Labels are int32 [B]; `num_classes` itself is the null label. Keys are typed
`jax.random.key` arrays [B], one per image (genjax/rng.py).
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

Images = Float[Array, 'b h w c']
Labels = Int[Array, 'b']
Keys = Key[Array, 'b']
Tree = Any


class Batch(NamedTuple):
  """What a step sees. `index` is each example's place in the GLOBAL batch: its key follows from it on any device."""

  image: Images
  label: Labels
  index: Int[Array, 'b']


def example_batch(image_shape: tuple[int, int, int], size: int = 1) -> Batch:
  """A batch of zeros: shapes are all that `init` wants to know."""
  index = jnp.arange(size, dtype=jnp.int32)
  return Batch(jnp.zeros((size, *image_shape)), jnp.zeros_like(index), index)


class Variables(NamedTuple):
  """All arrays of a model. `params`: player (or frozen network) -> tree. `buffers`: what is saved but not trained."""

  params: dict[str, Tree]
  buffers: dict[str, Tree]


class Context(NamedTuple):
  """What a loss may look at and the step does not differentiate."""

  step: Int[Array, '']
  ema: dict[str, Tree]
  buffers: dict[str, Tree]
  batch_size: int = 0  # of the whole batch, on all devices, in all microbatches
  playing: tuple[str, ...] = ()  # whose turn it is, and which terms of their losses count: static, `player` or `player/term`


class Aux(NamedTuple):
  """What a loss returns beside its value: scalars to log, and the buffers that it changed (by top-level name), in floats.

  What devices and microbatches make of a buffer is averaged.
  """

  metrics: dict[str, Float[Array, '']]
  buffers: dict[str, Tree] = {}


Loss = Callable[[dict[str, Tree], Context, Batch, Keys], tuple[Float[Array, ''], Aux]]


class Player(NamedTuple):
  """One side of the game: `loss` as the paper writes it, a mean over the batch; it plays each `every`-th step.

  `terms(step)`, a step known on the host, names what of the loss counts at this step beside what always does.
  """

  loss: Loss
  every: int = 1
  terms: Callable[[int], tuple[str, ...]] = lambda step: ()


@runtime_checkable
class Objective(Protocol):
  """A frozen dataclass: hashable, printable. VAE, diffusion and flow are games of one player, a GAN of two.

  `sample` is pure (the caller jits it); its keyword-only parameters are the options that `sample.py` offers, or the fields of
  its `sampler`, a frozen dataclass of plain values, if it has one. One with a likelihood also has `estimators`,
  which says what each is of, the first of them unless told otherwise, `nll(variables, batch, keys, estimator)`, nats per
  image [B], and `nll_is_dear = True` if it costs many evaluations; one without may say why in `no_nll`. One with a latent has
  `latents(keys)` and `from_latents(variables, z, one-hot label, keys, scale)`, for walks. One that has
  `pictures(variables, batch, keys)`, name -> images [rows, columns, H, W, C], shows them beside the samples of a run.
  """

  num_classes: int  # 0: unconditional

  @property
  def players(self) -> Mapping[str, Player]:  # in order of play
    ...

  def init(self, key: jax.Array, batch: Batch) -> Variables: ...

  def sample(self, variables: Variables, keys: Keys, labels: Labels | None = None, **options) -> Images: ...
