"""The contract between sources, conditioners, objectives, the step and whoever samples.

Images are float32 [B, H, W, C] in [-1, 1]. Conditions are a dict of arrays whose leading axis is B (genjax/conditioners.py).
Keys are typed `jax.random.key` arrays [B], one per image (genjax/rng.py).
"""

from collections.abc import Callable, Hashable, Mapping
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

Images = Float[Array, 'b h w c']
Labels = Int[Array, 'b']
Keys = Key[Array, 'b']
Cond = Mapping[str, Array]  # 'label': int32 [B], ...; each array [B, ...]. {}: unconditional
Tree = Any


class Batch(NamedTuple):
  """The input of a training step.

  `cond` holds what the images come with, such as labels. `index` is each example's place in the GLOBAL batch: its key follows
  from it on any device. `row` is its place in the data set.
  """

  image: Images
  cond: Cond
  index: Int[Array, 'b']
  row: Int[Array, 'b']


class Example(NamedTuple):
  """Describes the examples of a data source: shapes and types without the batch axis."""

  image: jax.ShapeDtypeStruct  # float32 [H, W, C]
  cond: Mapping[str, jax.ShapeDtypeStruct]
  classes: tuple[str, ...] = ()  # names of the classes, if there is a label
  size: int = 0  # number of examples


def example_batch(example: Example, size: int = 1) -> Batch:
  """A batch of zeros for `init`, which needs only shapes."""
  zeros = lambda x: jnp.zeros((size, *x.shape), x.dtype)  # noqa: E731
  index = jnp.arange(size, dtype=jnp.int32)
  return Batch(zeros(example.image), {name: zeros(x) for name, x in example.cond.items()}, index, jnp.zeros_like(index))


class Variables(NamedTuple):
  """All arrays of a model. `params`: player (or frozen network) -> tree. `buffers`: what is saved but not trained."""

  params: dict[str, Tree]
  buffers: dict[str, Tree]


class Context(NamedTuple):
  """Inputs of a loss that are not differentiated."""

  step: Int[Array, '']
  ema: dict[str, Tree]
  buffers: dict[str, Tree]
  batch_size: int = 0  # of the whole batch, on all devices, in all microbatches
  data_size: int = 0  # number of examples in the data set
  plan: Hashable = ()  # the player's plan at this step; static


class Aux(NamedTuple):
  """Auxiliary outputs of a loss: scalars to log, and the buffers that it changed (by top-level name), in floats.

  What devices and microbatches make of a buffer is averaged.
  """

  metrics: dict[str, Float[Array, '']]
  buffers: dict[str, Tree] = {}


Loss = Callable[[dict[str, Tree], Context, Batch, Keys], tuple[Float[Array, ''], Aux]]


class Player(NamedTuple):
  """One side of the game: `loss` as the paper writes it, a mean over the batch.

  `plan(step)`, of a step known on the host, is what of the loss counts at this step, or None if the player sits out. The loss
  reads it from `context.plan`, where it is static: the step is compiled once for each combination of plans.
  """

  loss: Loss
  plan: Callable[[int], Hashable | None] = lambda step: ()


@runtime_checkable
class Conditioner(Protocol):
  """Conditions of a model: from a user's values to arrays, and from arrays to what networks get. A frozen dataclass.

  `fields` are the entries of `Batch.cond` that it handles. See genjax/conditioners.py.
  """

  fields: tuple[str, ...]

  def check(self, example: Example) -> None:
    """Raises UsageError unless a source of such examples provides the fields."""
    ...

  def encode(self, values: Mapping[str, Any], n: int, example: Example) -> dict[str, np.ndarray]:
    """On the host: arrays [n, ...] of the fields that a user's values set. Raises UsageError for other values."""
    ...

  def null(self, cond: Cond) -> Cond:
    """Conditions of the same shapes that stand for none, for classifier-free guidance."""
    ...

  def draw(self, keys: Keys) -> Cond:
    """Conditions [B] for when the user sets none. Raises UsageError where nothing can be drawn."""
    ...

  def embed(self, cond: Cond) -> Cond:
    """Inputs of networks, such as one-hot vectors instead of labels."""
    ...

  def drop(self, keys: Keys, cond: Cond, rate: float) -> Cond:
    """`cond` with the null values in the place of a part `rate` of the examples."""
    ...


@runtime_checkable
class Objective(Protocol):
  """A frozen dataclass: hashable, printable. VAE, diffusion and flow are games of one player, a GAN of two.

  `sample` is pure (the caller jits it). Fields that `cond` lacks are drawn. Its keyword-only parameters are the options that
  `sample.py` offers, or the fields of its `sampler`, a frozen dataclass of plain values, if it has one. What else an objective
  can do is one of the protocols below.
  """

  conditioner: Conditioner

  @property
  def players(self) -> Mapping[str, Player]:  # in order of play
    ...

  def init(self, key: jax.Array, batch: Batch) -> Variables: ...

  def sample(self, variables: Variables, keys: Keys, cond: Cond, **options) -> Images: ...


@runtime_checkable
class HasLikelihood(Protocol):
  """`estimators` describes each estimator; the first is the default. `nll_is_expensive`: many evaluations per image."""

  nll_is_expensive: bool

  @property
  def estimators(self) -> Mapping[str, str]: ...

  def nll(self, variables: Variables, batch: Batch, keys: Keys, estimator: str) -> Float[Array, 'b']:
    """-log p(x) or a bound of it, in nats per image."""
    ...


@runtime_checkable
class HasNoLikelihood(Protocol):
  """An objective without a density, and why."""

  no_nll: str


@runtime_checkable
class HasLatents(Protocol):
  """A model that decodes one latent vector: walks and mixes go through it."""

  def latents(self, keys: Keys) -> Float[Array, 'b z']:
    """Latents as `sample` draws them."""
    ...

  def from_latents(
    self, variables: Variables, z: Float[Array, 'b z'], embedded: Cond, keys: Keys, scale: float = 1.0
  ) -> Images:
    """The images of latents times `scale`; `embedded` are conditions as `Conditioner.embed` returns them."""
    ...


@runtime_checkable
class HasStyles(Protocol):
  """A generator that maps z to w and makes the image of w, of which each of its `num_ws` layers may get one of its own."""

  num_ws: int

  def mapping(self, z: Float[Array, 'b z'], embedded: Cond, truncation: float) -> Float[Array, 'b w']: ...

  def synthesis(self, w: Float[Array, 'b w'] | Float[Array, 'b l w'], keys: Keys) -> Images: ...


@runtime_checkable
class HasSampler(Protocol):
  """A model whose options of sampling are the fields of `sampler`, with `timesteps` as the default of its noise path."""

  sampler: Any  # genjax/samplers/sampler.py

  @property
  def timesteps(self) -> str: ...


@runtime_checkable
class HasTrajectory(Protocol):
  """A model that samples step by step: `solve` is `sample` with the way there (genjax/samplers/solvers.py, Solution)."""

  def solve(self, variables: Variables, keys: Keys, cond: Cond, **options) -> Any: ...


@runtime_checkable
class CountsEvaluations(Protocol):
  """A model without a trajectory that evaluates its networks more than once for an image, such as pixel by pixel."""

  def evaluations(self, variables: Variables) -> int:
    """Network evaluations per image."""
    ...


@runtime_checkable
class HasPreviews(Protocol):
  """A model that shows more than samples: name -> images [rows, columns, H, W, C], for a few images and their conditions."""

  def previews(self, variables: Variables, batch: Batch, keys: Keys) -> dict[str, Float[Array, 'r k h w c']]: ...


@runtime_checkable
class Grows(Protocol):
  """A model whose images are whole from step `grown_at` on."""

  @property
  def grown_at(self) -> int: ...
