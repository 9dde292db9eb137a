"""VQ-VAE (van den Oord et al. 1711.00937) and its like, with a prior over the codes that is trained beside it."""

import dataclasses

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int

from genjax import rng
from genjax.errors import UsageError
from genjax.objectives.autoregressive.pixels import check_causal, row_by_row
from genjax.objectives.codes.quantizers import FSQ, Codebook
from genjax.objectives.common import check_no_dropout, labels_or_random, one_hot
from genjax.objectives.likelihoods import Likelihood
from genjax.objectives.previews import Picture, reconstructions
from genjax.types import Aux, Batch, Context, Images, Keys, Labels, Player, Variables


@dataclasses.dataclass(frozen=True)
class VQVAE:
  """A game of two: 'model' reconstructs an image from a grid of codes, 'prior' learns which grids there are.

  `encoder(x) -> grid` of as many numbers as a code has, `decoder(grid) -> the likelihood's numbers`, `prior(grid, label)` ->
  logits of the code at each place given those before it. The prior sees codes as they are and moves none of them: what a second
  training would learn of a finished model, it learns on the way. With classes the prior alone hears the label.
  """

  encoder: nn.Module
  decoder: nn.Module
  prior: nn.Module
  likelihood: Likelihood
  quantiser: Codebook | FSQ = Codebook()  # noqa: RUF009 - frozen
  num_classes: int = 0  # 0: unconditional

  def __post_init__(self):
    for part, field, number in (('encoder', 'dim', self.quantiser.dim), ('prior', 'outputs', self.quantiser.size)):
      given, kind = getattr(getattr(self, part), field, None), type(self.quantiser).__name__
      if given != number:
        raise UsageError(f'objective.{part}.{field}={given}: {kind} has {number}, set it to that.')
    check_causal('prior', self.prior)
    check_no_dropout(self.prior, 'prior', 'VQVAE')
    if self.likelihood.params() or self.likelihood.buffers():
      raise UsageError(f'{type(self.likelihood).__name__} learns, which VQVAE has no place for: take Gaussian or Bernoulli.')

  @property
  def players(self) -> dict[str, Player]:
    return {'model': Player(self.loss), 'prior': Player(self.prior_loss)}

  def init(self, key: jax.Array, batch: Batch) -> Variables:
    keys, label = jax.random.split(key, 3), one_hot(batch.label, self.num_classes)
    encoder = self.encoder.init(keys[0], batch.image)['params']
    grid = self.encoder.apply({'params': encoder}, batch.image)
    if tuple(getattr(self.prior, 'image_shape', grid.shape[1:])) != grid.shape[1:]:
      raise UsageError(
        f'objective.prior.image_shape={self.prior.image_shape}: the grid of codes is {grid.shape[1:]}, set that.'
      )
    answer, decoder = self.decoder.init_with_output(keys[1], grid)
    self.likelihood.check(answer.shape, batch.image.shape)
    params = {
      'model': {'encoder': encoder, 'decoder': decoder['params']},
      'prior': self.prior.init(keys[2], grid, label)['params'],
    }
    buffers = self.quantiser.buffers()
    return Variables(params, {'codebook': buffers} if buffers else {})

  def loss(self, params: dict, context: Context, batch: Batch, keys: Keys):
    """-log p(x|e) and the commitment (eq. 3); the codebook's buffers follow."""
    cost, aux, x, e = self.reconstruction(params, context, batch, keys)
    nll = -self.likelihood.log_prob(self.decode(params, e), x, {}).mean()
    return nll + cost, aux

  def reconstruction(self, params: dict, context: Context, batch: Batch, keys: Keys):
    """What the commitment costs; metrics and the codebook's new buffers; the images as observed; their codes' vectors."""
    own = self.quantiser.restarted(context.buffers.get('codebook', {}))
    x = self.likelihood.observe(batch.image, rng.fold_in(keys, 0))
    z = self.encoder.apply({'params': params['model']['encoder']}, x)
    e, index, cost = self.quantiser.quantise(z, own)
    nll = -self.likelihood.log_prob(self.decode(params, e), x, {}).mean()
    share = jax.nn.one_hot(index.ravel(), self.quantiser.size).mean(axis=0)
    metrics = {
      'reconstruction_nats': nll, 'commitment': cost.mean(),
      'codes_used': jnp.exp(-jnp.where(share > 0, share * jnp.log(share), 0).sum()),
    }  # fmt: skip
    changed = self.quantiser.updated(z, index, own)
    return cost.mean(), Aux(metrics, {'codebook': changed} if changed else {}), x, e

  def prior_loss(self, params: dict, context: Context, batch: Batch, keys: Keys):
    """-log p(codes), nats per image."""
    index, own = self.codes(params, context.buffers, batch, rng.fold_in(keys, 0))[1:]
    nats = -self.log_prior(params, index, own, batch.label).mean()
    return nats, Aux({'prior_nats': nats})

  def codes(self, params: dict, buffers: dict, batch: Batch, keys: Keys) -> tuple[Images, Int[Array, 'b h w'], dict]:
    """The images as observed, their codes, and the codebook."""
    x, own = self.likelihood.observe(batch.image, keys), buffers.get('codebook', {})
    return x, self.quantiser.index(self.encoder.apply({'params': params['model']['encoder']}, x), own), own

  def log_prior(self, params: dict, index: Int[Array, 'b h w'], own: dict, label: Labels) -> Float[Array, 'b']:
    """log p(codes) in nats."""
    grid = self.quantiser.vector(jax.lax.stop_gradient(index), own)
    logits = self.prior.apply({'params': params['prior']}, grid, one_hot(label, self.num_classes))
    return jnp.take_along_axis(jax.nn.log_softmax(logits), index[..., None], axis=-1).sum(axis=(1, 2, 3))

  def decode(self, params: dict, grid: Float[Array, 'b h w d']) -> Float[Array, 'b h w o']:
    return self.decoder.apply({'params': params['model']['decoder']}, grid)

  def nll(self, variables: Variables, batch: Batch, keys: Keys, estimator: str = 'elbo') -> Float[Array, 'b']:
    """-log p(x|e) - log p(e) at the codes of x, an upper bound of -log p(x): the ELBO of a q that is sure. Nats per image."""
    params, buffers = variables
    x, index, own = self.codes(params, buffers, batch, rng.split(keys, 2)[1])  # observed as VAEs do
    log_prob = self.likelihood.log_prob(self.decode(params, self.quantiser.vector(index, own)), x, {})
    return -log_prob - self.log_prior(params, index, own, batch.label)

  @property
  def estimators(self) -> dict[str, str]:
    return {'elbo': f'a bound, of {self.likelihood.measures}'}

  def pictures(self, variables: Variables, batch: Batch, keys: Keys) -> dict[str, Picture]:
    """Reconstructions, and `codes`: what each code looks like everywhere, from the one that these images use most, 16 a row.
    Those that they do not use are black."""
    params, buffers = variables
    x, index, own = self.codes(params, buffers, batch, keys)
    image = lambda index: self.likelihood.mean(self.decode(params, self.quantiser.vector(index, own)))  # noqa: E731
    count = jnp.zeros(self.quantiser.size, jnp.int32).at[index.ravel()].add(1)
    order = jnp.argsort(-count)
    order = jnp.pad(order, (0, -len(order) % 16), mode='edge')
    everywhere = image(jnp.broadcast_to(order[:, None, None], (len(order), *index.shape[1:])))
    used = (jnp.arange(len(order)) < (count > 0).sum())[:, None, None, None]
    codes = jnp.where(used, everywhere, -1.0)
    return {'reconstructions': reconstructions(x, image(index)), 'codes': codes.reshape(-1, 16, *codes.shape[1:])}

  def sample(
    self, variables: Variables, keys: Keys, labels: Labels | None = None, *, temperature: float = 1.0, cached: bool = True
  ) -> Images:
    """The mean of p(x|e) of codes drawn from the prior, its logits divided by `temperature`. `cached` as in Autoregressive."""
    if temperature <= 0:
      raise UsageError(f'temperature={temperature} must be positive.')
    label = one_hot(labels_or_random(labels, keys, self.num_classes), self.num_classes)
    own, code_keys = variables.buffers.get('codebook', {}), rng.fold_in(keys, 0)
    pick = jax.vmap(lambda key, logits: jax.random.categorical(key, logits / temperature))
    draw = lambda out, place: self.quantiser.vector(pick(rng.fold_in(code_keys, place), out), own)  # noqa: E731
    image = jax.ShapeDtypeStruct((1, *self.decoder.image_shape), jnp.float32)
    shape = jax.eval_shape(self.encoder.apply, {'params': variables.params['model']['encoder']}, image).shape[1:]
    grid = row_by_row(self.prior, variables.params['prior'], shape, label, draw, len(keys), cached)
    return self.likelihood.mean(self.decode(variables.params, grid))
