"""VAEs and their likelihoods against closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genjax import rng
from genjax.errors import UsageError
from genjax.networks.grid import GridDecoder, GridEncoder
from genjax.networks.mlp import MLPDecoder, MLPEncoder
from genjax.networks.pixelcnn import PixelCNN
from genjax.networks.vdvae import VDVAEDecoder, VDVAEEncoder
from genjax.objectives import previews
from genjax.objectives.autoregressive.pixels import Autoregressive
from genjax.objectives.codes.quantizers import Codebook
from genjax.objectives.codes.vqvae import VQVAE
from genjax.objectives.likelihoods import (
  LEVEL,
  Bernoulli,
  BinarizedBernoulli,
  CalibratedGaussian,
  Gaussian,
  LogisticMixture,
  SharedGaussian,
)
from genjax.objectives.vae.beta_tc import BetaTCVAE, decomposition
from genjax.objectives.vae.capacity import CapacityVAE
from genjax.objectives.vae.hierarchical import HierarchicalVAE
from genjax.objectives.vae.iwae import IWAE
from genjax.objectives.vae.vae import VAE, warmup_weight
from genjax.types import Context
from tests.conftest import batch_of
from tests.linear_gaussian import SIGMA, Decoder, Encoder, evidence, gap

N = 4096
KEYS = rng.image_keys(jax.random.key(0), jnp.arange(N))
START = Context(jnp.zeros((), int), {}, {}, 1)
X = np.array([0.5, -0.4, 0.2, 0.6])
LEVELS = 4 * np.log(LEVEL)  # the density is per level of an 8-bit image


def batch_of_rows(rows):
  """Rows [B, 4] as images of 2x2 pixels."""
  return batch_of(jnp.asarray(rows, jnp.float32).reshape(-1, 2, 2, 1))


SAME = batch_of_rows(np.tile(X, (N, 1)))


def test_elbo_of_a_linear_gaussian_vae():
  vae = VAE(Encoder(), Decoder(), Gaussian(SIGMA))
  params, _ = vae.init(jax.random.key(0), SAME)
  loss, aux = jax.jit(vae.loss)(params, START, SAME, KEYS)
  assert gap() > 0.01
  assert -float(loss) == pytest.approx(evidence(X[None])[0] - gap() + LEVELS, abs=0.05)
  assert float(aux.metrics['bits_per_dim']) == pytest.approx(float(loss) / 4 / np.log(2), rel=1e-5)


def test_ways_through_latents_are_straight_and_one_at_a_time():
  x, z = jnp.zeros((4, 2, 3, 1)), jnp.asarray(np.random.default_rng(0).normal(size=(4, 3)) * [1, 5, 3], jnp.float32)
  cond = {'label': jax.nn.one_hot(jnp.arange(4), 3)}
  decode = lambda z, cond: jnp.stack([z, cond['label']], axis=1)[..., None]  # what it is given, as an image  # noqa: E731
  actual = previews.latent_previews(decode, x, z, cond)
  np.testing.assert_array_equal(actual['reconstructions'][1], decode(z, cond))
  way = np.asarray(actual['interpolation'])[..., 0]
  assert way.shape == (2, 10, 2, 3)
  z, label = np.asarray(z), np.asarray(cond['label'])
  np.testing.assert_allclose(way[1, :, 0], z[2] + np.linspace(0, 1, 10)[:, None] * (z[3] - z[2]), rtol=1e-5)
  np.testing.assert_allclose(way[1, :, 1], label[2] + np.linspace(0, 1, 10)[:, None] * (label[3] - label[2]), atol=1e-6)
  moved = np.asarray(actual['traversal'])[..., 0]
  order = np.argsort(-z.var(axis=0))
  for row, latent in enumerate(order):
    expected = np.tile(z[0], (10, 1))
    expected[:, latent] = np.linspace(-2.5, 2.5, 10)
    np.testing.assert_allclose(moved[row, :, 0], expected, rtol=1e-5)
  np.testing.assert_array_equal(moved[:, :, 1], np.broadcast_to(label[0], (3, 10, 3)))


WIDE = {'encoder': {'shift': jnp.array([0.3, -0.2]), 'wider': jnp.array([0.4, 0.2])}, 'decoder': {'shift': jnp.zeros(4)}}


def test_the_bound_of_k_draws_rises_to_the_evidence():
  bounds = []
  for k in (1, 2, 8, 64):
    loss, aux = jax.jit(IWAE(Encoder(), Decoder(), Gaussian(SIGMA), k=k).loss)({'model': WIDE}, START, SAME, KEYS)
    bounds.append(-float(loss) - LEVELS)
    assert -float(aux.metrics['elbo_nats']) + LEVELS == pytest.approx(-bounds[0], abs=0.05)
    assert 1 <= float(aux.metrics['effective_draws']) <= k + 1e-3
  truth = evidence(X[None])[0]
  assert bounds == sorted(bounds)
  assert bounds[0] < truth - 0.3
  assert truth - 0.03 < bounds[-1] < truth + 0.01
  vae = VAE(Encoder(), Decoder(), Gaussian(SIGMA))
  fifty = jax.jit(lambda keys: vae.nll(vae.init(keys[0], SAME)._replace(params={'model': WIDE}), SAME, keys, 'iwae_50'))(KEYS)
  assert -float(fifty.mean()) - LEVELS == pytest.approx(bounds[-1], abs=0.03)


def test_the_doubly_reparameterized_gradient_is_the_same_and_quieter():
  parts = [jax.tree.map(lambda a, i=i: a[i * 64 : (i + 1) * 64], (SAME, KEYS)) for i in range(64)]
  actual = {}
  for doubly in (False, True):
    iwae = IWAE(Encoder(), Decoder(), Gaussian(SIGMA), k=32, doubly=doubly)
    slope = jax.jit(jax.grad(lambda model, batch, keys: iwae.loss({'model': model}, START, batch, keys)[0]))
    slopes = [slope(WIDE, *part) for part in parts]
    actual[doubly] = jax.tree.map(lambda *xs: np.stack(xs), *slopes)
  for player in ('encoder', 'decoder'):
    for name, plain in actual[False][player].items():
      doubly = actual[True][player][name]
      error = np.sqrt(plain.var(axis=0) + doubly.var(axis=0)) / 8
      assert (np.abs(plain.mean(axis=0) - doubly.mean(axis=0)) < 4 * error + 1e-6).all(), name
      if player == 'encoder':
        assert (doubly.std(axis=0) < 0.5 * plain.std(axis=0)).all()
      else:
        np.testing.assert_allclose(doubly, plain, rtol=1e-3, atol=1e-4)


def test_a_warmup_ends_however_long_the_training():
  late = Context(jnp.asarray(3_000_000, jnp.int32), {}, {}, 1024)  # 3 billion images, more than an int32 holds
  assert [float(warmup_weight(warmup, late)) for warmup in (0, 1000)] == [1, 1]


def test_beta_weighs_the_kl_and_rises_over_the_warmup():
  batch, context = batch_of_rows(np.zeros((8, 4))), START._replace(step=jnp.asarray(25), batch_size=8)
  losses = {}
  for beta, warmup in ((1.0, 0), (4.0, 0), (4.0, 800)):
    vae = VAE(Encoder(), Decoder(), Gaussian(SIGMA), beta=beta, warmup=warmup)
    losses[beta, warmup], aux = vae.loss(vae.init(jax.random.key(0), batch).params, context, batch, KEYS[:8])
  kl = float(aux.metrics['kl_nats'])
  assert float(losses[4.0, 0] - losses[1.0, 0]) == pytest.approx(3 * kl, rel=1e-5)
  assert float(losses[4.0, 800]) == pytest.approx(float(losses[1.0, 0]), rel=1e-6)  # a quarter of the way


def test_free_bits_are_of_each_latent():
  batch = batch_of_rows(np.random.default_rng(0).normal(0, 0.5, (8, 4)))
  plain, free = (VAE(Encoder(), Decoder(), Gaussian(SIGMA), free_bits=bits) for bits in (0.0, 0.56))
  params = plain.init(jax.random.key(0), batch).params
  kl = np.asarray(plain.elbo_terms(params, {}, batch, KEYS[:8]).posterior.kl).mean(axis=0)
  assert kl.min() < 0.56 < kl.max()
  difference = free.loss(params, START, batch, KEYS[:8])[0] - plain.loss(params, START, batch, KEYS[:8])[0]
  assert float(difference) == pytest.approx(0.56 - kl.min(), rel=1e-4)


def test_the_capacity_draws_the_kl_from_both_sides():
  batch = batch_of_rows(np.random.default_rng(0).normal(0, 0.5, (8, 4)))
  vae = VAE(Encoder(), Decoder(), Gaussian(SIGMA))
  params = vae.init(jax.random.key(0), batch).params
  loss, aux = vae.loss(params, START, batch, KEYS[:8])
  kl = vae.elbo_terms(params, {}, batch, KEYS[:8]).posterior.kl.sum(axis=1)
  for step, capacity in ((0, 0.0), (5, 2.0), (99, 4.0)):
    led = CapacityVAE(Encoder(), Decoder(), Gaussian(SIGMA), gamma=10.0, capacity=4.0, warmup=80)
    context = START._replace(step=jnp.asarray(step), batch_size=8)
    value, metrics = led.loss(params, context, batch, KEYS[:8])
    expected = float(loss) - float(aux.metrics['kl_nats']) + 10 * np.abs(kl - capacity).mean()
    assert float(value) == pytest.approx(expected, rel=1e-4)
    assert float(metrics.metrics['capacity_nats']) == pytest.approx(capacity)


def test_the_three_parts_of_the_kl_by_brute_force():
  # The data set is the batch, q(z) a mixture of six Gaussians: every density written out, in float64.
  rows = np.random.default_rng(0).normal(0, 0.5, (6, 4))
  batch = batch_of_rows(rows)
  vae = BetaTCVAE(Encoder(), Decoder(), Gaussian(SIGMA), alpha=2.0, beta=5.0, gamma=0.5)
  params = vae.init(jax.random.key(0), batch).params
  posterior = vae.encode(params, batch, KEYS[:6])
  z = posterior.sample(KEYS[:6])
  mean, var, at = (np.asarray(a, np.float64) for a in (posterior.mean, np.exp(posterior.log_var), z))
  each = lambda i, j, d: np.exp(-0.5 * (at[i, d] - mean[j, d]) ** 2 / var[j, d]) / np.sqrt(2 * np.pi * var[j, d])  # noqa: E731
  expected = []
  for i in range(6):
    joint = np.mean([each(i, j, 0) * each(i, j, 1) for j in range(6)])
    marginals = [np.mean([each(i, j, d) for j in range(6)]) for d in (0, 1)]
    prior = np.exp(-0.5 * at[i] ** 2) / np.sqrt(2 * np.pi)
    own = each(i, i, 0) * each(i, i, 1)
    expected.append([np.log(own / joint), np.log(joint / np.prod(marginals)), np.log(np.prod(marginals) / np.prod(prior))])
  parts = np.stack(vae.decomposition(posterior, z, 6), axis=1)
  np.testing.assert_allclose(parts, expected, rtol=1e-3, atol=1e-4)
  value, _ = vae.regularizer(posterior, z, START._replace(data_size=6))
  assert float(value) == pytest.approx(np.mean(expected, axis=0) @ [2.0, 5.0, 0.5], rel=1e-3)


def test_the_three_parts_of_the_kl_of_a_discrete_latent_are_its_sums_over_all_values():
  # z has two places of three values each, q(z_j|x) a table for each of four images: I(x; z), TC(z) and the marginal KLs summed.
  random = np.random.default_rng(0)
  table, prior = random.dirichlet(np.ones(3), (4, 2)), random.dirichlet(np.ones(3), 2)  # [image, place, value], [place, value]
  q_zx = np.einsum('ka,kb->kab', table[:, 0], table[:, 1]) / 4  # q(z, x), x uniform
  q_z, marginals = q_zx.sum(axis=0), table.mean(axis=0)
  information = (q_zx * np.log(q_zx / (q_z / 4))).sum()
  total_correlation = (q_z * np.log(q_z / np.outer(*marginals))).sum()
  dimensions = (marginals * np.log(marginals / prior)).sum()
  actual = np.zeros(3)
  for a, b in np.ndindex(3, 3):  # all four images have this z; how often each has it weighs its answer
    log_q = np.log(np.stack([table[:, 0, a], table[:, 1, b]], axis=1))
    pairs = jnp.asarray(np.broadcast_to(log_q, (4, 4, 2)), jnp.float32)
    log_prior = jnp.full(4, np.log(prior[0, a] * prior[1, b]), jnp.float32)
    actual += q_zx[:, a, b] @ np.stack(decomposition(pairs, log_prior, 4), axis=1)
  np.testing.assert_allclose(actual, [information, total_correlation, dimensions], rtol=1e-5)
  assert total_correlation > 0.01


def test_the_density_of_codes_is_estimated_without_bias():
  # From a random half of twelve images, the image's own among them: the mean over halves is the density itself.
  rows = np.random.default_rng(0).normal(0, 0.5, (12, 4))
  vae = BetaTCVAE(Encoder(), Decoder(), Gaussian(SIGMA))
  params = vae.init(jax.random.key(0), batch_of_rows(rows)).params
  posterior = vae.encode(params, batch_of_rows(rows), KEYS[:12])
  z, first = posterior.sample(KEYS[:12]), jax.jit(lambda *parts: vae.decomposition(*parts, 12)[0])
  density = lambda rows: np.exp(-first(jax.tree.map(lambda a: a[rows], posterior), z[rows])) * own[rows]  # noqa: E731
  own = np.exp(
    [float(x) for x in -0.5 * ((z - posterior.mean) ** 2 * np.exp(-posterior.log_var) + posterior.log_var).sum(axis=1)]
  )
  whole = density(np.arange(12))[0]
  random = np.random.default_rng(1)
  halves = [density(np.concatenate([[0], 1 + random.permutation(11)[:5]]))[0] for _ in range(400)]
  assert np.mean(halves) == pytest.approx(whole, abs=4 * np.std(halves) / 20)
  assert np.std(halves) > 0.02 * whole


def test_corruption_changes_the_encoder_s_input_and_not_the_likelihood():
  batch = batch_of_rows(np.zeros((8, 4)))
  clean, noisy = (VAE(Encoder(), Decoder(), Gaussian(SIGMA), corruption=c) for c in (0.0, 0.5))
  params = clean.init(jax.random.key(0), batch).params
  a, b = clean.encode(params, batch, KEYS[:8]), noisy.encode(params, batch, KEYS[:8])
  np.testing.assert_array_equal(a.x, b.x)
  assert float(jnp.abs(a.mean - b.mean).max()) > 0.1


def test_bernoulli_is_the_mean_over_binarizations():
  logits, p = np.array([0.3, -1.2, 2.0, 0.0]), np.array([0.2, 0.9, 0.5, 0.0])
  rows = np.array(np.meshgrid(*[[0, 1]] * 4)).reshape(4, -1).T  # all 16 binary images
  weight = np.prod(np.where(rows, p, 1 - p), axis=1)
  theta = 1 / (1 + np.exp(-logits))
  expected = (weight * np.log(np.where(rows, theta, 1 - theta)).sum(axis=1)).sum()
  shaped = lambda a: jnp.asarray(a, jnp.float32).reshape(1, 2, 2, 1)  # noqa: E731
  assert float(Bernoulli().log_prob(shaped(logits), shaped(2 * p - 1), {})[0]) == pytest.approx(expected, rel=1e-5)
  observed = BinarizedBernoulli().observe(jnp.broadcast_to(shaped(2 * p - 1), (N, 2, 2, 1)), KEYS, jnp.arange(N))
  assert set(np.unique(observed)) == {-1, 1}
  actual = BinarizedBernoulli().log_prob(jnp.broadcast_to(shaped(logits), (N, 2, 2, 1)), observed, {})
  assert float(actual.mean()) == pytest.approx(expected, abs=4 * float(actual.std()) / 64)


def test_static_binarization_follows_from_the_place_in_the_data_set():
  images = np.random.default_rng(0).integers(0, 256, (64, 8, 8, 1)).astype(np.float32)
  x, row = jnp.asarray(images * LEVEL - 1), jnp.arange(64)
  static, dynamic = BinarizedBernoulli(static=True), BinarizedBernoulli()
  a, b = static.observe(x, KEYS[:64], row), static.observe(x[::-1], KEYS[64:128], row[::-1])[::-1]
  np.testing.assert_array_equal(a, b)
  samples = [np.asarray(dynamic.observe(x, keys, row)) for keys in (KEYS[:64], KEYS[64:128])]
  assert (samples[0] != samples[1]).mean() > 0.2
  assert (
    np.asarray(static.observe(x, KEYS[:64], row + 64)) != np.asarray(a)
  ).mean() > 0.2  # another place, other draws everywhere
  same = static.observe(x.at[:, 0, 0].set(x[::-1, 0, 0]), KEYS[:64], row)
  np.testing.assert_array_equal(same[:, 1:], a[:, 1:])  # another pixel leaves the others as they are
  assert float(jnp.corrcoef(a.ravel(), x.ravel())[0, 1]) > 0.5
  assert 'statically' in static.measures
  assert 'dynamically' in dynamic.measures


def test_a_learned_deviation_is_at_rest_where_it_is_the_error():
  x = jnp.asarray(np.random.default_rng(0).normal(0, 0.3, (64, 2, 2, 1)), jnp.float32)
  out = jnp.zeros_like(x)
  slope = jax.grad(lambda log_sigma: SharedGaussian().log_prob(out, x, {'log_sigma': log_sigma}).sum())
  rms = jnp.sqrt(jnp.square(x).mean())
  inverse = jnp.log(jnp.expm1(jnp.log(rms) + 6)) - 6  # of the soft clipping
  assert abs(float(slope(inverse))) < 1e-2 < 1 < abs(float(slope(inverse + 0.1)))
  params = VAE(Encoder(), Decoder(), SharedGaussian(0.5)).init(jax.random.key(0), SAME).params
  assert float(params['model']['likelihood']['log_sigma']) == pytest.approx(np.log(0.5))


def test_a_calibrated_deviation_puts_the_error_under_a_logarithm():
  rows = np.random.default_rng(0).normal(0, 0.5, (32, 4))
  batch, vae = batch_of_rows(rows), VAE(Encoder(), Decoder(), CalibratedGaussian())
  params, buffers = vae.init(jax.random.key(0), batch)
  assert float(buffers['likelihood']['mse']) == 1
  encoded, _, out, _ = vae.elbo_terms(params, buffers, batch, KEYS[:32])
  mse = jnp.square(encoded.x - out).mean()
  log_prob = lambda out: CalibratedGaussian().log_prob(out, encoded.x, {'mse': mse}).mean()  # noqa: E731
  under = lambda out: -2 * jnp.log(jnp.square(encoded.x - out).mean())  # noqa: E731 - D / 2 log of it
  np.testing.assert_allclose(jax.grad(log_prob)(out), jax.grad(under)(out), rtol=1e-4)
  _, aux = vae.loss(params, START._replace(buffers=buffers), batch, KEYS[:32])
  assert float(aux.buffers['likelihood']['mse']) == pytest.approx(1 + 0.01 * (float(mse) - 1), rel=1e-5)


def all_levels(channels):
  """Every image of one pixel."""
  grid = np.stack(np.meshgrid(*[np.arange(256)] * channels, indexing='ij'), axis=-1).reshape(-1, 1, 1, channels)
  return jnp.asarray(grid * LEVEL - 1, jnp.float32)


@pytest.mark.parametrize(('channels', 'scale'), [(1, 1.0), (1, 8.0), (2, 2.0)])
def test_the_logistic_mixture_sums_to_one(channels, scale):
  # With the scale of 8 some of its means are out of range, and some of its deviations below a level.
  mixture, x = LogisticMixture(3), all_levels(channels)
  out = scale * jax.random.normal(jax.random.key(1), (1, 1, 1, mixture.outputs(channels)))
  log_prob = jax.jit(mixture.log_prob)(jnp.broadcast_to(out, (len(x), *out.shape[1:])), x, {})
  assert np.exp(np.asarray(log_prob, np.float64)).sum() == pytest.approx(1, abs=1e-3)
  assert np.isfinite(jax.grad(lambda out: mixture.log_prob(out, x[7:8], {}).sum())(out)).all()


def test_the_logistic_mixture_is_the_difference_of_its_distribution_function():
  mixture, x = LogisticMixture(1), all_levels(1)
  out = jnp.asarray([0.7, 0.2, -2.0]).reshape(1, 1, 1, 3)
  actual = np.exp(mixture.log_prob(jnp.broadcast_to(out, (256, 1, 1, 3)), x, {}))
  edges = np.concatenate([[-np.inf], (np.arange(1, 256) - 0.5) * 2 / 255 - 1, [np.inf]])
  np.testing.assert_allclose(actual, np.diff(1 / (1 + np.exp(-(edges - 0.2) / np.exp(-2.0)))), rtol=2e-3, atol=1e-7)


def test_draws_of_the_logistic_mixture_are_as_frequent_as_it_says():
  mixture, n = LogisticMixture(2), 40 * N
  out = jnp.asarray([0.5, -0.2, -0.6, 0.1, -2.0, -1.0, 0.9, 0.5, 0.3, -2.5, -1.5, -0.8]).reshape(1, 1, 1, -1)
  keys = rng.image_keys(jax.random.key(2), jnp.arange(n))
  samples = np.asarray(jax.jit(mixture.sample)(jnp.broadcast_to(out, (n, *out.shape[1:])), keys))[:, 0, 0]
  x = all_levels(2)
  p = np.exp(np.asarray(jax.jit(mixture.log_prob)(jnp.broadcast_to(out, (len(x), *out.shape[1:])), x, {}), np.float64))
  levels = np.asarray(x)[:, 0, 0]
  for function in (lambda v: v[:, 0], lambda v: v[:, 1], lambda v: v[:, 0] * v[:, 1], lambda v: v[:, 1] ** 2):
    expected = (p * function(levels)).sum()
    assert function(samples).mean() == pytest.approx(expected, abs=4 * function(samples).std() / np.sqrt(n))
  assert (np.abs((samples + 1) / LEVEL - np.round((samples + 1) / LEVEL)) < 1e-3).all()
  assert np.corrcoef(samples.T)[0, 1] > 0.1  # the second channel depends on the first


def test_the_decoder_answers_what_the_likelihood_reads():
  example = batch_of(jnp.zeros((1, 8, 8, 3)))
  vae = VAE(MLPEncoder(width=8), MLPDecoder((8, 8, 3), width=8), LogisticMixture(5))
  with pytest.raises(UsageError, match=r'LogisticMixture.* 50 .* 3.*outputs=50'):
    vae.init(jax.random.key(0), example)
  vae = VAE(MLPEncoder(width=8), MLPDecoder((8, 8, 3), width=8, outputs=50), LogisticMixture(5))
  variables = vae.init(jax.random.key(0), example)
  assert vae.sample(variables, KEYS[:2], {}).shape == (2, 8, 8, 3)


def test_bounds_are_of_any_number_of_draws():
  rows = np.random.default_rng(0).normal(0, 0.5, (64, 4))
  vae = VAE(Encoder(), Decoder(), Gaussian(SIGMA))
  variables = vae.init(jax.random.key(0), batch_of_rows(rows))
  assert list(vae.estimators) == ['elbo', 'iwae_50', 'iwae_5000']
  assert vae.estimators['iwae_7'].startswith('a bound by 7 draws (IWAE), of ')
  nats = [float(vae.nll(variables, batch_of_rows(rows), KEYS[:64], f'iwae_{k}').mean()) for k in (1, 7, 200)]
  assert nats[0] > nats[1] > nats[2]
  for name in ('iwae_0', 'iwae_', 'iwae_5x', 'ode'):
    assert name not in vae.estimators
    with pytest.raises(UsageError, match=f"estimator '{name}'"):
      vae.nll(variables, batch_of_rows(rows), KEYS[:64], name)
  with pytest.raises(UsageError, match=r'temperature=-1\.0'):
    vae.sample(variables, KEYS[:2], {}, temperature=-1.0)


@pytest.mark.parametrize(
  ('make', 'message'),
  [
    (lambda: VAE(Encoder(), Decoder(), Gaussian(), warmup=-1), 'warmup=-1'),
    (lambda: VAE(Encoder(), Decoder(), Gaussian(), beta=-1.0), 'beta=-1.0'),
    (lambda: VAE(Encoder(), Decoder(), Gaussian(), free_bits=-1.0), 'free_bits=-1.0'),
    (lambda: VAE(Encoder(), Decoder(), Gaussian(), corruption=-1.0), 'corruption=-1.0'),
    (lambda: IWAE(Encoder(), Decoder(), Gaussian(), k=0), 'k=0'),
    (lambda: CapacityVAE(Encoder(), Decoder(), Gaussian(), capacity=-2.0), 'capacity=-2.0'),
    (lambda: BetaTCVAE(Encoder(), Decoder(), Gaussian(), gamma=-2.0), 'gamma=-2.0'),
    (lambda: LogisticMixture(0), 'mixtures=0'),
    (lambda: SharedGaussian(0.0), 'sigma=0.0'),
  ],
)
def test_values_out_of_range_are_refused(make, message):
  with pytest.raises(UsageError, match=message):
    make()


def test_an_unknown_estimator_is_named():
  vae = VAE(Encoder(), Decoder(), Gaussian(SIGMA))
  with pytest.raises(UsageError, match=r"'iwae50'.* Did you mean '?iwae_50"):
    vae.nll(vae.init(jax.random.key(0), SAME), SAME, KEYS, 'iwae50')


@pytest.mark.slow
def test_all_families_are_measured_by_the_same_binary_images():
  observed, actual = [], []

  class Watched(BinarizedBernoulli):
    def observe(self, x, keys, row):
      observed.append(super().observe(x, keys, row))
      return observed[-1]

  batch = batch_of(jnp.zeros((4, 4, 4, 1)))
  sides = {'sides': (4,), 'blocks': (1,), 'width': 4}
  for objective in (
    VAE(MLPEncoder(z_dim=2, width=4), MLPDecoder((4, 4, 1), width=4), Watched()),
    HierarchicalVAE(VDVAEEncoder(**sides), VDVAEDecoder((4, 4, 1), z_dim=1, **sides), Watched()),
    Autoregressive(PixelCNN(1, width=4, blocks=1, levels=1), Watched(), (4, 4, 1)),
    VQVAE(GridEncoder(2, 4, 1, 1), GridDecoder((4, 4, 1), 4, 1, 1), PixelCNN(4, 4, 1, 1), Watched(), Codebook(4, 2)),
  ):
    variables = jax.jit(objective.init)(jax.random.key(0), batch)
    estimator = next(iter(objective.estimators))

    def seen(variables, objective=objective, estimator=estimator):
      observed.clear()
      return objective.nll(variables, batch, KEYS[:4], estimator), observed[0]

    actual.append(jax.jit(seen)(variables)[1])
  assert set(np.unique(actual[0])) == {-1, 1}
  for x in actual[1:]:
    np.testing.assert_array_equal(x, actual[0])
