"""VQGAN: the gradients of the last layer of the decoder, and which loss updates which player."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genjax import rng
from genjax.conditioners import ClassLabel
from genjax.errors import UsageError
from genjax.networks.dcgan import DCGANDiscriminator, PatchDiscriminator
from genjax.networks.grid import GridDecoder, GridEncoder
from genjax.networks.mlp import MLPDecoder
from genjax.networks.pixel_transformer import PixelTransformer
from genjax.objectives.codes.quantizers import Codebook
from genjax.objectives.codes.vqgan import VQGAN, perceptual_distance
from genjax.objectives.gan.losses import RelativisticPairing
from genjax.objectives.gan.penalties import R1, PathLength
from genjax.objectives.likelihoods import Gaussian
from genjax.types import Context
from tests.conftest import batch_of

BATCH = batch_of(jnp.tanh(jax.random.normal(jax.random.key(1), (6, 8, 8, 1))), jnp.arange(6) % 3)
KEYS = rng.image_keys(jax.random.key(0), BATCH.index)


def made(**options):
  parts = {
    'encoder': GridEncoder(4, width=8, levels=1, blocks=1), 'decoder': GridDecoder((8, 8, 1), 8, 1, 1),
    'prior': PixelTransformer((4, 4, 4), 8, 16, 1, 2), 'likelihood': Gaussian(0.5), 'quantizer': Codebook(8, 4),
    'discriminator': PatchDiscriminator(8, 1), 'perceptual': 3.0, 'conditioner': ClassLabel(3),
  }  # fmt: skip
  return VQGAN(**parts | options)


@pytest.mark.parametrize('adversarial', [None, pytest.param(RelativisticPairing(), marks=pytest.mark.slow)])
def test_the_last_layer_balances_the_gradients_of_both_losses(adversarial):
  model = made(**({'adversarial': adversarial} if adversarial else {}), adversarial_weight=0.5)
  variables = jax.jit(model.init)(jax.random.key(0), BATCH)
  params, embedded = variables.params, model.conditioner.embed(BATCH.cond)
  at = lambda buffers, step=1: Context(jnp.int32(step), {}, buffers, 6)  # noqa: E731

  def terms(decoder):
    """The reconstruction and the adversarial loss, as in the paper."""
    x, index, own = model.codes(params, variables.buffers, BATCH, rng.fold_in(KEYS, 0))
    out = model.decode({'model': {'decoder': decoder}}, model.quantizer.vector(index, own))
    image = model.likelihood.mean(out)
    outputs = [model.discriminate(params, variables.buffers, a, embedded) for a in (image, x)]
    apart = perceptual_distance(outputs[0][1], outputs[1][1]).mean()
    rebuilt = -model.likelihood.log_prob(out, x, {}).mean() + 3.0 * apart
    return rebuilt, model.adversarial.generator(outputs[1][0].ravel(), outputs[0][0].ravel())

  decoder = params['model']['decoder']
  slopes = [jax.jit(jax.grad(lambda decoder, i=i: terms(decoder)[i]))(decoder) for i in (0, 1)]
  slope = jax.jit(jax.grad(model.loss, has_aux=True))
  first, aux = slope(params, at(variables.buffers), BATCH, KEYS)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4), first['model']['decoder'], slopes[0])
  rebuilt, played = (np.asarray(tree['out']['kernel']) for tree in slopes)
  ratio = np.linalg.norm(rebuilt) / (np.linalg.norm(played) + 1e-4)
  buffers = variables.buffers | aux.buffers
  buffers['codebook'] = variables.buffers['codebook']
  second, aux = slope(params, at(buffers), BATCH, KEYS)
  assert float(aux.metrics['lambda']) == pytest.approx(ratio, rel=1e-3)
  expected = jax.tree.map(lambda a, b: a + 0.5 * ratio * b, *slopes)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=5e-3), second['model']['decoder'], expected)
  late = made(start=7, **({'adversarial': adversarial} if adversarial else {}))
  unplayed, _ = jax.jit(jax.grad(late.loss, has_aux=True))(params, at(buffers), BATCH, KEYS)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4), unplayed['model']['decoder'], slopes[0])


@pytest.mark.slow
def test_the_discriminator_distinguishes_images_from_reconstructions():
  model = made(discriminator=DCGANDiscriminator(8, 'spectral'), penalties={'r1': R1(2.0)})
  variables = jax.jit(model.init)(jax.random.key(0), BATCH)
  loss, aux = jax.jit(model.discriminator_loss)(variables.params, Context(jnp.int32(1), {}, variables.buffers, 6), BATCH, KEYS)
  real, fake = float(aux.metrics['d_real']), float(aux.metrics['d_fake'])
  assert abs(real) < 1
  assert abs(fake) < 1
  assert float(loss) == pytest.approx(1 - real + 1 + fake + float(aux.metrics['discriminator/r1']), rel=1e-4)
  assert float(aux.metrics['discriminator/r1']) > 0
  assert 'spectral' in aux.buffers['discriminator']


def test_patches_see_what_is_near_them():
  network = PatchDiscriminator(4, 2)
  x = jax.random.normal(jax.random.key(0), (1, 64, 64, 1))
  params = jax.jit(network.init)(jax.random.key(1), x)
  assert network.apply(params, x).shape == (1, 16, 16)
  visible = np.asarray(jax.jit(jax.grad(lambda x: network.apply(params, x)[0, 8, 8]))(x))[0, ..., 0] != 0
  rows, columns = np.nonzero(visible)
  # Its field by the recursion r -> r + (4 - 1) s from the logit down: 4, 7, 16, 34.
  assert (np.ptp(rows) + 1, np.ptp(columns) + 1) == (34, 34)


def test_distance_of_features():
  a, b = jnp.array([[[[3.0, 0.0]], [[0.0, 2.0]]]]), jnp.array([[[[5.0, 0.0]], [[7.0, 0.0]]]])
  assert float(perceptual_distance([a], [b])[0]) == pytest.approx((0 + 2) / 2, abs=1e-4)
  assert float(perceptual_distance([a, b], [a, b])[0]) == 0
  with pytest.raises(UsageError, match=r'objective.perceptual: the discriminator has no convolutions .* set it to 0'):
    perceptual_distance([], [])  # of an MLP's


@pytest.mark.parametrize(
  ('make', 'message'),
  [
    (lambda: made(adversarial_weight=-1.0), r'objective.adversarial_weight=-1.0 must not be negative'),
    (
      lambda: made(penalties={'r1': R1(1.0, every=2)}),
      'objective.penalties.r1 must be a penalty on the discriminator, at every',
    ),
    (lambda: made(penalties={'p': PathLength(1.0)}), 'objective.penalties.p must be a penalty on the discriminator'),
    (lambda: made(decoder=MLPDecoder((8, 8, 1), 8)), "MLPDecoder must have a last convolution named 'out'"),
  ],
)
def test_mistakes(make, message):
  with pytest.raises(UsageError, match=message):
    jax.eval_shape(lambda: make().init(jax.random.key(0), BATCH))
