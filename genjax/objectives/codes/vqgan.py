"""VQGAN (Esser et al. 2012.09841): a VQ-VAE whose decoder is also trained against a discriminator."""

import dataclasses
from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from flax.core import FrozenDict
from jaxtyping import Array, Float

from genjax import rng
from genjax.errors import UsageError
from genjax.objectives.codes.vqvae import CodeModel
from genjax.objectives.gan.gan import penalized
from genjax.objectives.gan.losses import Adversarial, Hinge
from genjax.objectives.gan.penalties import GeneratorPenalty, Penalty
from genjax.types import Aux, Batch, Cond, Context, Images, Keys, Player, Variables


class Balance(NamedTuple):
  """Gradients of the reconstruction and of the adversarial loss by the last kernel, in the previous step."""

  reconstruction: Float[Array, 'i j c o']
  adversarial: Float[Array, 'i j c o']

  @property
  def weight(self) -> Float[Array, '']:
    """lambda (eq. 7)."""
    sizes = jax.tree.map(optax.tree.norm, self)
    return sizes.reconstruction / (sizes.adversarial + 1e-4)


@dataclasses.dataclass(frozen=True)
class VQGAN(CodeModel):
  """Three players: 'model' reconstructs, 'discriminator' classifies reconstructions, and 'prior' is as in `CodeModel`.

  L = -log p(x|e) + commitment + perceptual d(x, x') + adversarial_weight lambda L_G, lambda = |grad L_rec| / |grad L_G| of the
  decoder's last layer (eq. 7), which must be a convolution `out`. `discriminator(x, cond, train) -> logits`, [B] or of patches
  [B, h, w], minimizes the loss `adversarial` with `penalties` as in a GAN. There are two differences from the paper. The norms
  are those of the previous step, since a ratio from one batch would depend on how it is split. And d, LPIPS in the paper,
  compares the activations of the discriminator's convolutions (1512.09300, section 2.3), normalized over the channels as in
  1801.03924, eq. 1.
  """

  discriminator: nn.Module = dataclasses.field(kw_only=True)
  adversarial: Adversarial = Hinge()  # noqa: RUF009 - frozen
  penalties: Mapping[str, Penalty] = FrozenDict()
  adversarial_weight: float = 0.8
  perceptual: float = 0.0  # nats per unit of d; d is at most 2 for each convolution
  start: int = 0  # training images before the adversarial loss is used

  def __post_init__(self):
    super().__post_init__()
    for name in ('adversarial_weight', 'perceptual', 'start'):
      if getattr(self, name) < 0:
        raise UsageError(f'objective.{name}={getattr(self, name)} must not be negative.')
    for name, penalty in self.penalties.items():
      if not isinstance(penalty, Penalty) or isinstance(penalty, GeneratorPenalty) or penalty.every > 1:
        raise UsageError(f'objective.penalties.{name} must be a penalty on the discriminator, at every step.')
    object.__setattr__(self, 'penalties', FrozenDict(self.penalties))  # hashable

  @property
  def players(self) -> dict[str, Player]:
    plays = {'model': Player(self.loss), 'discriminator': Player(self.discriminator_loss)}
    return plays | {'prior': Player(self.prior_loss)}

  def init(self, key: jax.Array, batch: Batch) -> Variables:
    params, buffers = super().init(key, batch)
    out = params['model']['decoder'].get('out', {}).get('kernel')
    if out is None:
      kind = type(self.decoder).__name__
      raise UsageError(f"objective.decoder: {kind} must have a last convolution named 'out': use GridDecoder.")
    mine = self.discriminator.init(jax.random.fold_in(key, 3), batch.image, self.conditioner.embed(batch.cond), True)
    params['discriminator'] = mine.pop('params')
    more = {'balance': Balance(jnp.zeros_like(out), jnp.zeros_like(out))._asdict()}
    return Variables(params, buffers | more | ({'discriminator': mine} if mine else {}))

  def discriminate(
    self, params: dict, buffers: dict, x: Images, embedded: Cond
  ) -> tuple[Float[Array, 'b p'], list[Array], dict]:
    """The logits of patches, the activations of convolutions (except logits), and the discriminator's new buffers."""
    mine = buffers.get('discriminator', {})
    logits, state = self.discriminator.apply(
      {'params': params['discriminator'], **mine}, x, embedded, True,
      capture_intermediates=lambda module, _: isinstance(module, nn.Conv), mutable=['intermediates', *mine],
    )  # fmt: skip
    state = dict(state)
    activations = [a for a in jax.tree.leaves(state.pop('intermediates', {})) if a.shape[-1] > 1]
    return logits.reshape(len(x), -1), activations, {'discriminator': state} if state else {}

  def loss(self, params: dict, context: Context, batch: Batch, keys: Keys):
    """The loss L of the model, see above."""
    embedded, balance = self.conditioner.embed(batch.cond), Balance(**context.buffers['balance'])
    vq, aux, x, e = self.reconstruction(params, context, batch, keys)
    decoder = params['model']['decoder']

    def reconstruct(kernel):  # the decoder's output as a function of the kernel of its last layer
      out = {**decoder['out'], 'kernel': kernel}
      return self.decode({'model': {'decoder': {**decoder, 'out': out}}}, e)

    def adversarial_loss(image):
      logits = self.discriminate(params, context.buffers, image, embedded)[0].ravel()
      real = self.discriminate(params, context.buffers, x, embedded)[0].ravel() if self.adversarial.paired else None
      return self.adversarial.generator(real, logits)

    def reconstruction_loss(out):
      value = -self.likelihood.log_prob(out, x, {}).mean()
      if self.perceptual:
        ours, theirs = (
          self.discriminate(params, context.buffers, image, embedded)[1] for image in (self.likelihood.mean(out), x)
        )
        value += self.perceptual * perceptual_distance(ours, theirs).mean()
      return value

    out, back = jax.vjp(reconstruct, decoder['out']['kernel'])
    image, of_out = jax.vjp(self.likelihood.mean, out)
    adversarial, slope = jax.value_and_grad(adversarial_loss)(image)
    total, total_slope = jax.value_and_grad(reconstruction_loss)(out)
    fixed = jax.lax.stop_gradient
    changed = Balance(fixed(back(total_slope)[0]), fixed(back(of_out(slope)[0])[0]))
    weight = self.adversarial_weight * balance.weight * (context.step.astype(jnp.float32) * context.batch_size >= self.start)
    # The gradients are known: `along` returns a value with this gradient, without another pass through the discriminator.
    along = lambda value, at, slope: fixed(value) + (fixed(slope) * (at - fixed(at))).sum()  # noqa: E731
    value = along(total, out, total_slope) + vq + weight * along(adversarial, image, slope)
    metrics = aux.metrics | {'model/adversarial': adversarial, 'lambda': balance.weight}
    if self.perceptual:
      metrics['perceptual_nats'] = total - aux.metrics['reconstruction_nats']
    return value, Aux(metrics, aux.buffers | {'balance': changed._asdict()})

  def discriminator_loss(self, params: dict, context: Context, batch: Batch, keys: Keys):
    """L_D for images and their reconstructions, and the penalties."""
    embedded = self.conditioner.embed(batch.cond)
    x, index, state = self.codes(params, context.buffers, batch, rng.fold_in(keys, 0))
    fake = self.likelihood.mean(self.decode(params, self.quantizer.vector(index, state)))
    (real, _, buffers), (generated, _, _) = (self.discriminate(params, context.buffers, image, embedded) for image in (x, fake))
    loss = self.adversarial.discriminator(real.ravel(), generated.ravel())
    metrics = {'d_real': real.mean(), 'd_fake': generated.mean()}

    def critic(images, keys):
      return self.discriminate(params, context.buffers, images, embedded)[0].mean(axis=1)

    loss, values = penalized(loss, self.penalties, context, critic, x, fake, keys, stream=1)
    return loss, Aux(metrics | values, buffers)


def perceptual_distance(ours: list[Array], theirs: list[Array]) -> Float[Array, 'b']:
  """Sum over layers of the mean over positions of |a - b|^2, where a and b are activations normalized over the channels."""
  unit = lambda a: a / jnp.sqrt(jnp.square(a).sum(axis=-1, keepdims=True) + 1e-8)  # noqa: E731
  distances = [jnp.square(unit(a) - unit(b)).sum(axis=-1).mean(axis=(1, 2)) for a, b in zip(ours, theirs, strict=True)]
  if not distances:
    raise UsageError('objective.perceptual: the discriminator has no convolutions to compare: set it to 0.')
  return jnp.stack(distances).sum(axis=0)
