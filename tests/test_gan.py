"""What a game of two is played for, against closed forms: losses and penalties."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy.stats import chi, norm

from genjax import rng
from genjax.errors import UsageError
from genjax.networks.mlp import MLPGenerator
from genjax.objectives.gan import losses, penalties

KEYS = rng.image_keys(jax.random.key(0), jnp.arange(512))


def quantiles(mean, n=4000):
  return jnp.asarray(norm.ppf((np.arange(n) + 0.5) / n) + mean, jnp.float32)


REAL, FAKE = quantiles(1.0), quantiles(-1.0)  # of N(1, 1) and N(-1, 1): log p/q = 2 x


@pytest.mark.parametrize(
  ('loss', 'link'),
  [
    (losses.NonSaturating(), lambda logit: logit),
    (losses.Minimax(), lambda logit: logit),
    (losses.RelativisticPairing(), lambda logit: logit),
    (losses.LeastSquares(), jax.nn.sigmoid),  # p / (p + q)
  ],
)
def test_the_best_discriminator_of_two_gaussians_is_their_ratio(loss, link):
  order = jax.random.permutation(jax.random.key(0), len(FAKE))  # relativistic pairs are independent

  def value(line):
    return loss.discriminator(link(line[0] * REAL + line[1]), link((line[0] * FAKE + line[1])[order]))

  line = minimum(value, jnp.zeros(2))
  paired = loss.paired  # a constant does not count between pairs
  np.testing.assert_allclose(line[:1] if paired else line, [2.0, 0.0][: 1 if paired else 2], atol=0.05)


def minimum(value, start):
  solver = optax.lbfgs()

  @jax.jit
  def move(x, state):
    v, g = optax.value_and_grad_from_state(value)(x, state=state)
    updates, state = solver.update(g, state, x, value=v, grad=g, value_fn=value)
    return optax.apply_updates(x, updates), state

  state = solver.init(start)
  for _ in range(30):
    start, state = move(start, state)
  return start


def test_smoothing_lowers_the_target_of_real_images():
  # One place where real and generated images are as likely: D = (1 - s) / 2.
  loss = losses.NonSaturating(smoothing=0.1)
  logit = minimum(lambda x: loss.discriminator(x, x), jnp.zeros(1))
  np.testing.assert_allclose(jax.nn.sigmoid(logit), 0.45, atol=1e-3)
  with pytest.raises(UsageError, match=r'objective.loss.smoothing=1.5 must be in \[0, 1\)'):
    losses.NonSaturating(smoothing=1.5)


def test_hinge_and_wasserstein_at_their_optima():
  # Hinge: D = +-1, the sign of p - q; Wasserstein: D(x) = x has slope 1, and W = 2 is the distance of the means.
  hinge, wasserstein = losses.Hinge(), losses.Wasserstein()
  assert float(hinge.discriminator(jnp.sign(REAL), jnp.sign(FAKE))) == pytest.approx(4 * norm.cdf(-1), rel=1e-3)
  assert float(hinge.discriminator(10 * jnp.ones(4), -10 * jnp.ones(4))) == 0.0
  assert float(wasserstein.discriminator(REAL, FAKE)) == pytest.approx(-2.0, rel=1e-5)
  for loss in (hinge, wasserstein):
    assert float(loss.generator(None, FAKE)) == pytest.approx(1.0, rel=1e-5)  # -E x


def test_where_the_discriminator_is_sure_only_the_saturating_generator_stands_still():
  sure = jnp.full(4, -20.0)
  slope = lambda loss: float(jax.grad(lambda x: loss.generator(None, x))(sure).sum())  # noqa: E731
  assert abs(slope(losses.Minimax())) < 1e-6
  assert slope(losses.NonSaturating()) == pytest.approx(-1)
  assert slope(losses.LeastSquares()) == pytest.approx(-21)


# Penalties. Critics whose slope is known: <c, x> has c, |x|^2 / 2 has x.

IMAGES = jax.random.normal(jax.random.key(1), (512, 2, 2, 1))
OTHERS = 2 * jax.random.normal(jax.random.key(2), (512, 2, 2, 1))
SLOPE = jnp.array([[[3.0], [0.0]], [[0.0], [4.0]]])[None]


def straight(images, keys):
  return (SLOPE * images).sum(axis=(1, 2, 3))


def bowl(images, keys):
  return 0.5 * jnp.square(images).sum(axis=(1, 2, 3))


def test_penalties_of_a_straight_critic():
  value = lambda penalty: float(penalty(straight, IMAGES, OTHERS, KEYS))  # noqa: E731
  assert value(penalties.R1(2.0)) == value(penalties.R2(2.0)) == pytest.approx(25.0)
  assert value(penalties.GradientPenalty(10.0)) == value(penalties.DRAGAN(10.0)) == pytest.approx(160.0)


def test_penalties_of_a_bowl():
  squares = lambda x: float(jnp.square(x).sum(axis=(1, 2, 3)).mean())  # noqa: E731
  assert float(penalties.R1(2.0)(bowl, IMAGES, OTHERS, KEYS)) == pytest.approx(squares(IMAGES), rel=1e-5)
  assert float(penalties.R2(2.0)(bowl, IMAGES, OTHERS, KEYS)) == pytest.approx(squares(OTHERS), rel=1e-5)
  # Between 0 and an image of norm 2 the slope is u 2: E (2u - 1)^2 = 1/3.
  two = jnp.ones((512, 2, 2, 1))
  actual = float(penalties.GradientPenalty(1.0)(bowl, two, jnp.zeros_like(two), KEYS))
  assert actual == pytest.approx(1 / 3, rel=0.1)
  # Around 0 it is |delta|, delta ~ N(0, s^2 I) in 4 dimensions.
  s = 0.5
  expected = 4 * s**2 - 2 * s * chi(4).mean() + 1
  assert float(penalties.DRAGAN(1.0, 1, s)(bowl, 0 * two, two, KEYS)) == pytest.approx(expected, rel=0.1)


def test_a_flat_critic_has_finite_gradients():
  def value(scale, penalty):
    return penalty(lambda images, keys: scale * images.sum(axis=(1, 2, 3)), IMAGES, OTHERS, KEYS)

  for penalty in (
    penalties.GradientPenalty(),
    penalties.DRAGAN(),
    penalties.R1(1.0),
    penalties.R2(1.0),
    penalties.ConsistencyRegularization(),
  ):
    assert np.isfinite(jax.grad(value)(0.0, penalty)), penalty


def test_consistency_is_zero_for_what_does_not_see_the_transformation():
  images = jax.random.normal(jax.random.key(1), (64, 16, 16, 1))
  counts = lambda images, keys: jnp.ones(len(images))  # noqa: E731
  corner = lambda images, keys: images[:, 0, 0, 0]  # noqa: E731
  assert float(penalties.ConsistencyRegularization()(counts, images, images, KEYS[:64])) == 0.0
  # The corner becomes another pixel of the same distribution (or stays, once in 2 x 25): E (a - b)^2 = 2.
  one = float(penalties.ConsistencyRegularization(1.0)(corner, images, images, KEYS[:64]))
  assert one == pytest.approx(2.0, rel=0.4)
  both = float(penalties.ConsistencyRegularization(1.0, generated=1.0)(corner, images, images, KEYS[:64]))
  assert both == pytest.approx(2 * one, rel=1e-5)
  with pytest.raises(UsageError, match=r'ConsistencyRegularization: .* images of one pixel'):
    penalties.ConsistencyRegularization()(counts, images[:, :1, :1], images[:, :1, :1], KEYS[:64])


def test_path_length_of_a_straight_generator():
  # G(w) = w a, one number w: J^T y = <a, y>, y ~ N(0, I) / sqrt(H W), so lengths are |N(0, |a|^2 / 4)|.
  a = jnp.array([[[3.0], [0.0]], [[0.0], [4.0]]])
  generate = lambda w: w[:, :, None, None] * a[None]  # noqa: E731
  penalty, latents = penalties.PathLength(weight=1.0), jnp.ones((512, 1))
  value, memory = penalty(generate, latents, KEYS, jnp.asarray(0.0))
  assert float(value) == pytest.approx(25 / 4, rel=0.2)  # E length^2
  assert float(memory) == pytest.approx(0.01 * 2.5 * np.sqrt(2 / np.pi), rel=0.1)
  mean = 2.5 * np.sqrt(2 / np.pi)
  value, memory = penalty(generate, latents, KEYS, jnp.asarray(mean, jnp.float32))
  assert float(value) == pytest.approx(25 / 4 * (1 - 2 / np.pi), rel=0.2)  # their variance


@pytest.mark.parametrize('radius', [0.3, 1.0])
def test_variation_of_known_jacobians(radius):
  # G(z)_p = z^T A_p z / 2 has J(z) = A_p z: the share that varies is 1 - sqrt(1 - r^2). A straight G has none.
  a = jax.random.normal(jax.random.key(3), (4, 6, 6))
  a = a + a.transpose(0, 2, 1)
  latents = jax.random.normal(jax.random.key(4), (512, 6))
  curved = lambda z: 0.5 * jnp.einsum('bi,pij,bj->bp', z, a, z).reshape(-1, 2, 2, 1)  # noqa: E731
  straight = lambda z: jnp.einsum('bi,pi->bp', z, a[:, 0]).reshape(-1, 2, 2, 1)  # noqa: E731
  penalty = penalties.JacobianVariation(weight=2.0, radius=radius)
  first, means = penalty(curved, latents, KEYS, penalty.init())
  assert float(first) == 0.0  # it only remembers
  assert float(means[0]) == pytest.approx(float(jnp.square(a).sum()), rel=0.2)
  value, _ = penalty(curved, latents, KEYS, means)
  assert float(value) == pytest.approx(2 * (1 - np.sqrt(1 - radius**2)), rel=0.2)
  assert float(penalty(straight, latents, KEYS, means)[0]) < 1e-6

  # It pushes towards straight ones, and neither up nor down in scale.
  def slope(form):
    _, means = penalty(lambda z: form(1.0, z), latents, KEYS, penalty.init())
    return float(jax.grad(lambda c: penalty(lambda z: form(c, z), latents, KEYS, means)[0])(1.0))

  assert abs(slope(lambda c, z: c * curved(z))) < 1e-4
  assert slope(lambda c, z: straight(z) + c * curved(z)) > 0.02


def test_the_jacobian_of_the_penalty_is_that_of_finite_differences():
  generator = MLPGenerator((2, 2, 1), z_dim=3, width=8)
  z = jax.random.normal(jax.random.key(0), (1, 3))
  params = generator.init(jax.random.key(1), z)
  generate = lambda z: generator.apply(params, z)  # noqa: E731
  penalty = penalties.JacobianVariation(weight=1.0, radius=1.0)
  keys = KEYS[:1]
  n, v = (rng.normal(stream, (3,)) for stream in rng.split(keys, 2))
  slope = lambda z: (generate(z + 1e-3 * v) - generate(z - 1e-3 * v)) / 2e-3  # noqa: E731
  expected = 0.5 * jnp.square(slope(z) - slope(n)).sum()
  actual, _ = penalty(generate, z, keys, jnp.array([1.0, 0.0]))
  np.testing.assert_allclose(actual, expected, rtol=2e-2)
