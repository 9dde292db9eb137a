"""VQ-VAE (van den Oord et al. 1711.00937) and similar models, with a prior over the codes that is trained at the same time."""

import abc
import dataclasses

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int

from genjax import rng
from genjax.conditioners import Unconditional, complete
from genjax.errors import UsageError
from genjax.objectives.autoregressive.pixels import check_causal, row_by_row
from genjax.objectives.codes.quantizers import FSQ, Codebook
from genjax.objectives.common import check_no_dropout
from genjax.objectives.likelihoods import Likelihood
from genjax.objectives.previews import Preview, reconstructions
from genjax.types import Aux, Batch, Cond, Conditioner, Context, Images, Keys, Player, Variables


@dataclasses.dataclass(frozen=True)
class CodeModel(abc.ABC):
  """Abstract: 'model' reconstructs an image from a grid of codes, and 'prior' learns the distribution of the grids.

  `encoder(x) -> grid` with the dimension of a code, `decoder(grid)` -> parameters of the likelihood, `prior(grid, cond)` ->
  logits of the code at each position given the previous ones. The prior does not affect the codes; it is trained during the
  training of the model instead of after it. Only the prior is conditioned.
  """

  encoder: nn.Module
  decoder: nn.Module
  prior: nn.Module
  likelihood: Likelihood
  quantizer: Codebook | FSQ = Codebook()  # noqa: RUF009 - frozen
  conditioner: Conditioner = Unconditional()  # noqa: RUF009 - frozen

  nll_is_expensive = False

  def __post_init__(self):
    for part, field, number in (('encoder', 'dim', self.quantizer.dim), ('prior', 'outputs', self.quantizer.size)):
      value, kind = getattr(getattr(self, part), field, None), type(self.quantizer).__name__
      if value != number:
        raise UsageError(f'objective.{part}.{field}={value}: {kind} has {number}, set it to that.')
    check_causal('prior', self.prior)
    check_no_dropout(self.prior, 'prior', type(self).__name__)
    if self.likelihood.params() or self.likelihood.buffers():
      raise UsageError(
        f'{type(self.likelihood).__name__} has learned parameters, which {type(self).__name__} does not train: '
        'use Gaussian or Bernoulli.'
      )

  @property
  @abc.abstractmethod
  def players(self) -> dict[str, Player]: ...

  @abc.abstractmethod
  def loss(self, params: dict, context: Context, batch: Batch, keys: Keys) -> tuple[Float[Array, ''], Aux]: ...

  def init(self, key: jax.Array, batch: Batch) -> Variables:
    keys, embedded = jax.random.split(key, 3), self.conditioner.embed(batch.cond)
    encoder = self.encoder.init(keys[0], batch.image)['params']
    grid = self.encoder.apply({'params': encoder}, batch.image)
    if tuple(getattr(self.prior, 'image_shape', grid.shape[1:])) != grid.shape[1:]:
      raise UsageError(
        f'objective.prior.image_shape={self.prior.image_shape}: the grid of codes is {grid.shape[1:]}, set it to that.'
      )
    out, decoder = self.decoder.init_with_output(keys[1], grid)
    self.likelihood.check(out.shape, batch.image.shape)
    params = {
      'model': {'encoder': encoder, 'decoder': decoder['params']},
      'prior': self.prior.init(keys[2], grid, embedded)['params'],
    }
    buffers = self.quantizer.buffers()
    return Variables(params, {'codebook': buffers} if buffers else {})

  def reconstruction(self, params: dict, context: Context, batch: Batch, keys: Keys):
    """The commitment loss; metrics and the codebook's new buffers; the observed images; the vectors of their codes."""
    state = self.quantizer.reset_dead_codes(context.buffers.get('codebook', {}))
    x = self.likelihood.observe(batch.image, rng.fold_in(keys, 0), batch.row)
    z = self.encoder.apply({'params': params['model']['encoder']}, x)
    e, index, cost = self.quantizer.quantize(z, state)
    nll = -self.likelihood.log_prob(self.decode(params, e), x, {}).mean()
    share = jax.nn.one_hot(index.ravel(), self.quantizer.size).mean(axis=0)
    metrics = {
      'reconstruction_nats': nll, 'commitment': cost.mean(),
      'codes_used': jnp.exp(-jnp.where(share > 0, share * jnp.log(share), 0).sum()),
    }  # fmt: skip
    changed = self.quantizer.updated(z, index, state)
    return cost.mean(), Aux(metrics, {'codebook': changed} if changed else {}), x, e

  def prior_loss(self, params: dict, context: Context, batch: Batch, keys: Keys):
    """-log p(codes), nats per image."""
    _, index, state = self.codes(params, context.buffers, batch, rng.fold_in(keys, 0))
    nats = -self.log_prior(params, index, state, batch.cond).mean()
    return nats, Aux({'prior_nats': nats})

  def codes(self, params: dict, buffers: dict, batch: Batch, keys: Keys) -> tuple[Images, Int[Array, 'b h w'], dict]:
    """The observed images, their codes, and the codebook."""
    x, state = self.likelihood.observe(batch.image, keys, batch.row), buffers.get('codebook', {})
    return x, self.quantizer.index(self.encoder.apply({'params': params['model']['encoder']}, x), state), state

  def log_prior(self, params: dict, index: Int[Array, 'b h w'], state: dict, cond: Cond) -> Float[Array, 'b']:
    """log p(codes) in nats."""
    grid = self.quantizer.vector(jax.lax.stop_gradient(index), state)
    logits = self.prior.apply({'params': params['prior']}, grid, self.conditioner.embed(cond))
    return jnp.take_along_axis(jax.nn.log_softmax(logits), index[..., None], axis=-1).sum(axis=(1, 2, 3))

  def decode(self, params: dict, grid: Float[Array, 'b h w d']) -> Float[Array, 'b h w o']:
    return self.decoder.apply({'params': params['model']['decoder']}, grid)

  def nll(self, variables: Variables, batch: Batch, keys: Keys, estimator: str = 'elbo') -> Float[Array, 'b']:
    """-log p(x|e) - log p(e) at the codes of x, nats per image: an upper bound of -log p(x), with a deterministic q(e|x)."""
    params, buffers = variables
    x, index, state = self.codes(params, buffers, batch, rng.split(keys, 2)[1])  # observed as VAEs do
    log_prob = self.likelihood.log_prob(self.decode(params, self.quantizer.vector(index, state)), x, {})
    return -log_prob - self.log_prior(params, index, state, batch.cond)

  @property
  def estimators(self) -> dict[str, str]:
    return {'elbo': f'a bound, of {self.likelihood.measures}'}

  def previews(self, variables: Variables, batch: Batch, keys: Keys) -> dict[str, Preview]:
    """Reconstructions, and `codes`: images decoded from one code at all positions, the most used first, 16 per row.

    Codes that these images do not use are black.
    """
    params, buffers = variables
    x, index, state = self.codes(params, buffers, batch, keys)
    image = lambda index: self.likelihood.mean(self.decode(params, self.quantizer.vector(index, state)))  # noqa: E731
    count = jnp.zeros(self.quantizer.size, jnp.int32).at[index.ravel()].add(1)
    order = jnp.argsort(-count)
    order = jnp.pad(order, (0, -len(order) % 16), mode='edge')
    everywhere = image(jnp.broadcast_to(order[:, None, None], (len(order), *index.shape[1:])))
    used = (jnp.arange(len(order)) < (count > 0).sum())[:, None, None, None]
    codes = jnp.where(used, everywhere, -1.0)
    return {'reconstructions': reconstructions(x, image(index)), 'codes': codes.reshape(-1, 16, *codes.shape[1:])}

  def sample(self, variables: Variables, keys: Keys, cond: Cond, *, temperature: float = 1.0, cached: bool = True) -> Images:
    """The mean of p(x|e) for codes from the prior, its logits divided by `temperature`; `cached` as in `Autoregressive`."""
    if isinstance(temperature, int | float) and temperature <= 0:
      raise UsageError(f'temperature={temperature} must be positive.')
    embedded = self.conditioner.embed(complete(self.conditioner, cond, keys))
    state, code_keys = variables.buffers.get('codebook', {}), rng.fold_in(keys, 0)
    pick = jax.vmap(lambda key, logits: jax.random.categorical(key, logits / temperature))
    draw = lambda out, place: self.quantizer.vector(pick(rng.fold_in(code_keys, place), out), state)  # noqa: E731
    grid = row_by_row(self.prior, variables.params['prior'], self.grid_shape(variables), embedded, draw, keys.shape[0], cached)
    return self.likelihood.mean(self.decode(variables.params, grid))

  def grid_shape(self, variables: Variables) -> tuple[int, int, int]:
    """Rows, columns and dimension of a grid of codes."""
    image = jax.ShapeDtypeStruct((1, *self.decoder.image_shape), jnp.float32)
    return jax.eval_shape(self.encoder.apply, {'params': variables.params['model']['encoder']}, image).shape[1:]

  def evaluations(self, variables: Variables) -> int:
    """One evaluation of the prior per code, and one of the decoder."""
    rows, columns, _ = self.grid_shape(variables)
    return rows * columns + 1


@dataclasses.dataclass(frozen=True)
class VQVAE(CodeModel):
  """Two players: 'model' with L = -log p(x|e) + commitment (1711.00937, eq. 3), and 'prior'."""

  @property
  def players(self) -> dict[str, Player]:
    return {'model': Player(self.loss), 'prior': Player(self.prior_loss)}

  def loss(self, params: dict, context: Context, batch: Batch, keys: Keys):
    """-log p(x|e) and the commitment (eq. 3), and the updated buffers of the codebook."""
    cost, aux, x, e = self.reconstruction(params, context, batch, keys)
    nll = -self.likelihood.log_prob(self.decode(params, e), x, {}).mean()
    return nll + cost, aux
