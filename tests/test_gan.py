"""The game of two against closed forms: losses, penalties, turns, augmentation, growth."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy.stats import chi, norm

from genjax import optim, rng
from genjax.build import build, complete
from genjax.errors import UsageError
from genjax.networks.mlp import MLPDiscriminator, MLPGenerator
from genjax.networks.progressive import ProgressiveDiscriminator, ProgressiveGenerator
from genjax.networks.stylegan2 import StyleGAN2Discriminator, StyleGAN2Generator
from genjax.objectives import adversarial, penalties
from genjax.objectives.gan import GAN
from genjax.objectives.gan_augment import AdaptiveAugment, DiffAugment
from genjax.objectives.progressive_gan import ProgressiveGAN
from genjax.step import init_state, playing
from genjax.types import Batch, Variables
from tests.conftest import assert_close, step_of

KEYS = rng.image_keys(jax.random.key(0), jnp.arange(512))


def quantiles(mean, n=4000):
  return jnp.asarray(norm.ppf((np.arange(n) + 0.5) / n) + mean, jnp.float32)


REAL, FAKE = quantiles(1.0), quantiles(-1.0)  # of N(1, 1) and N(-1, 1): log p/q = 2 x


@pytest.mark.parametrize(
  ('loss', 'link'),
  [
    (adversarial.NonSaturating(), lambda logit: logit),
    (adversarial.Minimax(), lambda logit: logit),
    (adversarial.RelativisticPairing(), lambda logit: logit),
    (adversarial.LeastSquares(), jax.nn.sigmoid),  # p / (p + q)
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
  loss = adversarial.NonSaturating(smoothing=0.1)
  logit = minimum(lambda x: loss.discriminator(x, x), jnp.zeros(1))
  np.testing.assert_allclose(jax.nn.sigmoid(logit), 0.45, atol=1e-3)
  with pytest.raises(UsageError, match=r'objective.loss.smoothing=1.5 must be in \[0, 1\)'):
    adversarial.NonSaturating(smoothing=1.5)


def test_hinge_and_wasserstein_at_their_optima():
  # Hinge: D = +-1, the sign of p - q; Wasserstein: D(x) = x has slope 1, and W = 2 is the distance of the means.
  hinge, wasserstein = adversarial.Hinge(), adversarial.Wasserstein()
  assert float(hinge.discriminator(jnp.sign(REAL), jnp.sign(FAKE))) == pytest.approx(4 * norm.cdf(-1), rel=1e-3)
  assert float(hinge.discriminator(10 * jnp.ones(4), -10 * jnp.ones(4))) == 0.0
  assert float(wasserstein.discriminator(REAL, FAKE)) == pytest.approx(-2.0, rel=1e-5)
  for loss in (hinge, wasserstein):
    assert float(loss.generator(None, FAKE)) == pytest.approx(1.0, rel=1e-5)  # -E x


def test_where_the_discriminator_is_sure_only_the_saturating_generator_stands_still():
  sure = jnp.full(4, -20.0)
  slope = lambda loss: float(jax.grad(lambda x: loss.generator(None, x))(sure).sum())  # noqa: E731
  assert abs(slope(adversarial.Minimax())) < 1e-6
  assert slope(adversarial.NonSaturating()) == pytest.approx(-1)
  assert slope(adversarial.LeastSquares()) == pytest.approx(-21)


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
  found = float(penalties.GradientPenalty(1.0)(bowl, two, jnp.zeros_like(two), KEYS))
  assert found == pytest.approx(1 / 3, rel=0.1)
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
    penalties.Consistency(),
  ):
    assert np.isfinite(jax.grad(value)(0.0, penalty)), penalty


def test_consistency_is_zero_for_what_does_not_see_the_transformation():
  images = jax.random.normal(jax.random.key(1), (64, 16, 16, 1))
  counts = lambda images, keys: jnp.ones(len(images))  # noqa: E731
  corner = lambda images, keys: images[:, 0, 0, 0]  # noqa: E731
  assert float(penalties.Consistency()(counts, images, images, KEYS[:64])) == 0.0
  # The corner becomes another pixel of the same distribution (or stays, once in 2 x 25): E (a - b)^2 = 2.
  one = float(penalties.Consistency(1.0)(corner, images, images, KEYS[:64]))
  assert one == pytest.approx(2.0, rel=0.4)
  both = float(penalties.Consistency(1.0, generated=1.0)(corner, images, images, KEYS[:64]))
  assert both == pytest.approx(2 * one, rel=1e-5)


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
  first, energy = penalty(curved, latents, KEYS, jnp.zeros(()))
  assert float(first) == 0.0  # it only remembers
  assert float(energy) == pytest.approx(float(jnp.square(a).sum()), rel=0.2)
  value, _ = penalty(curved, latents, KEYS, energy)
  assert float(value) == pytest.approx(2 * (1 - np.sqrt(1 - radius**2)), rel=0.2)
  assert float(penalty(straight, latents, KEYS, energy)[0]) < 1e-6


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
  found, _ = penalty(generate, z, keys, jnp.ones(()))
  np.testing.assert_allclose(found, expected, rtol=2e-2)


# The game.


def batch_of(shape=(8, 8, 1), size=8):
  image = jnp.tanh(jax.random.normal(jax.random.key(1), (size, *shape)))
  return Batch(image, jnp.arange(size) % 10, jnp.arange(size, dtype=jnp.int32))


def game(**options):
  generator = options.pop('generator', MLPGenerator((8, 8, 1), z_dim=4, width=8))
  discriminator = options.pop('discriminator', MLPDiscriminator(width=8))
  return GAN(generator, discriminator, **options)


def state_of(objective, batch, optimizers=None):
  optimizers = optimizers or {player: optax.sgd(0.1) for player in objective.players}
  state = jax.jit(functools.partial(init_state, objective, optimizers))(jax.random.key(0), batch)
  keys = iter(jax.random.split(jax.random.key(2), 500))
  return optimizers, state.replace(
    params=jax.tree.map(lambda x: x + 0.05 * jax.random.normal(next(keys), x.shape), state.params)
  )


LOSSES = [
  adversarial.Minimax(), adversarial.NonSaturating(), adversarial.LeastSquares(), adversarial.Wasserstein(),
  adversarial.Hinge(), adversarial.RelativisticPairing()
]  # fmt: skip


@pytest.mark.parametrize('loss', LOSSES, ids=lambda loss: type(loss).__name__)
def test_a_step_of_each_player_lowers_its_own_loss(loss):
  objective, batch = game(loss=loss, num_classes=10), batch_of(size=64)
  optimizers, state = state_of(objective, batch, {player: optax.sgd(1e-2) for player in ('discriminator', 'generator')})
  for player in objective.players:
    step = jax.jit(step_of(objective, optimizers, playing=(player,)))
    after, before = step(state, batch, jax.random.key(3))
    _, again = step(after.replace(step=state.step), batch, jax.random.key(3))
    assert float(again[f'{player}/loss']) < float(before[f'{player}/loss'])


def test_turns_and_lazy_terms_are_counted_exactly():
  objective = game(
    penalties={'r1': penalties.R1(1.0, every=16), 'r2': penalties.R2(1.0)},
    generator_penalties={'path': penalties.PathLength(every=4)},
    critic_steps=2,
  )
  turns = [playing(objective, t) for t in range(32)]
  count = lambda name: sum(name in turn for turn in turns)  # noqa: E731
  assert count('discriminator') == 32
  assert count('generator') == 16
  assert count('discriminator/r1') == 2
  assert count('generator/path') == 8
  assert turns[0] == ('discriminator', 'discriminator/r1', 'generator', 'generator/path')
  assert len(set(turns)) == 4  # programs that are compiled


def test_a_lazy_penalty_counts_as_much_as_one_of_every_step():
  batch = batch_of()
  always, lazy = (game(penalties={'r1': penalties.R1(1.0, every)}) for every in (1, 4))
  optimizers, state = state_of(always, batch)

  def moved(objective, playing):
    after, logs = jax.jit(step_of(objective, optimizers, playing=playing))(state, batch, jax.random.key(3))
    return jax.tree.map(lambda a, b: a - b, after.params, state.params), logs

  without, logs = moved(lazy, ('discriminator',))
  assert 'discriminator/r1' not in logs
  with_it, logs = moved(lazy, ('discriminator', 'discriminator/r1'))
  each, logs_each = moved(always, ('discriminator',))
  assert float(logs['discriminator/r1']) == pytest.approx(float(logs_each['discriminator/r1']), rel=1e-5)
  difference = jax.tree.map(lambda a, b, c: (a - b) - 4 * (c - b), with_it, without, each)
  assert max(float(jnp.abs(x).max()) for x in jax.tree.leaves(difference)) < 1e-5


EVERYTHING = {
  'penalties': {
    'gp': penalties.GradientPenalty(1.0),
    'dragan': penalties.DRAGAN(1.0),
    'r1': penalties.R1(1.0),
    'consistency': penalties.Consistency(1.0, generated=1.0),
  },
  'generator_penalties': {'path': penalties.PathLength(every=1), 'jacobian': penalties.JacobianVariation(every=1)},
}


@pytest.mark.slow
@pytest.mark.parametrize('penalised', [False, True])
def test_microbatches_change_nothing_whatever_is_remembered(penalised):
  objective = game(**(EVERYTHING if penalised else {}), augment=AdaptiveAugment(kimg=0.1))
  batch, accumulate = batch_of(), 2
  optimizers, state = state_of(objective, batch)
  memory = {'p': jnp.asarray(0.5), 'r': jnp.asarray(0.9)}
  remembered = {'path': jnp.asarray(0.3), 'jacobian': jnp.asarray(2.0)}
  state = state.replace(buffers={'augment': memory} | ({'penalties': remembered} if penalised else {}))
  everyone = ('discriminator', 'generator')
  whole, _ = jax.jit(step_of(objective, optimizers, playing=everyone))(state, batch, jax.random.key(3))
  split, _ = jax.jit(step_of(objective, optimizers, playing=everyone, accumulate=accumulate))(state, batch, jax.random.key(3))
  assert_close(whole.params, split.params, 1e-4)
  assert_close(whole.buffers, split.buffers, 1e-4)
  assert float(whole.buffers['augment']['p']) == pytest.approx(0.5 + 8 / 100)
  assert not penalised or float(whole.buffers['penalties']['path']) != 0.3


def test_weights_are_clipped():
  batch = batch_of()
  objective = game(loss=adversarial.Wasserstein())
  optimizers = {'discriminator': optim.rmsprop(5e-2, clip_weights=0.03), 'generator': optim.rmsprop(5e-2)}
  _, state = state_of(objective, batch, optimizers)
  after, _ = jax.jit(step_of(objective, optimizers, playing=('discriminator', 'generator')))(state, batch, jax.random.key(3))
  largest = {name: max(float(jnp.abs(x).max()) for x in jax.tree.leaves(tree)) for name, tree in after.params.items()}
  assert largest['discriminator'] == pytest.approx(0.03)
  assert largest['generator'] > 0.1
  with pytest.raises(UsageError, match='clip_weights=-1 must not be negative'):
    optim.rmsprop(1e-3, clip_weights=-1)


@pytest.mark.parametrize('conditioning', ['concat', 'projection', 'classifier'])
def test_ways_to_tell_the_discriminator_the_class(conditioning):
  discriminator = MLPDiscriminator(width=8, conditioning=conditioning)
  objective, batch = game(discriminator=discriminator, num_classes=10), batch_of()
  optimizers, state = state_of(objective, batch)
  label = jnp.eye(10)[batch.label]
  answers, _ = objective.judge(state.params, {}, batch.image, label)
  others, _ = objective.judge(state.params, {}, batch.image, jnp.roll(label, 1, axis=0))
  hears = bool((jnp.abs(answers.logits - others.logits) > 1e-4).all())
  assert hears == (conditioning != 'classifier')
  assert (answers.classes is not None) == (conditioning == 'classifier')
  _, logs = jax.jit(step_of(objective, optimizers, playing=('discriminator', 'generator')))(state, batch, jax.random.key(3))
  if conditioning == 'classifier':  # near chance at the start: log 10 for real and generated images
    assert float(logs['d_classes']) == pytest.approx(2 * np.log(10), rel=0.2)
    assert answers.classes.shape == (8, 10)
  with pytest.raises(UsageError, match="conditioning='embedding' is none of concat, projection, classifier"):
    MLPDiscriminator(conditioning='embedding').init(jax.random.key(0), batch.image, label)


def test_what_does_not_fit_is_refused():
  with pytest.raises(UsageError, match=r'objective.critic_steps=0 must be 1 or more'):
    game(critic_steps=0)
  with pytest.raises(UsageError, match=r'objective.penalties.path is PathLength, no penalty on the discriminator'):
    game(penalties={'path': penalties.PathLength()})
  with pytest.raises(UsageError, match=r'objective.generator_penalties.r1 is int, no penalty on the generator'):
    game(generator_penalties={'r1': 3})
  with pytest.raises(UsageError, match=r"objective.penalties: 'loss' is no name for a penalty, which is logged as discrimin"):
    game(penalties={'loss': penalties.R1(1.0)})
  with pytest.raises(UsageError, match=r'R1: weight=-1.0 must not be negative'):
    penalties.R1(-1.0)
  with pytest.raises(UsageError, match=r"policy 'colour' is unknown. Did you mean color"):
    DiffAugment(('colour',))
  with pytest.raises(UsageError, match=r'AdaptiveAugment: target=2 '):
    AdaptiveAugment(target=2)
  dcgan = complete(
    {
      'cls': 'objectives.gan.GAN',
      'generator': {'cls': 'networks.dcgan.DCGANGenerator', 'width': 8},
      'discriminator': {'cls': 'networks.dcgan.DCGANDiscriminator', 'width': 8},
      'penalties': {'r1': {'cls': 'objectives.penalties.R1', 'weight': 1.0}},
    },
    {'image_shape': (16, 16, 1), 'dtype': 'float32'},
  )
  objective, batch = build(dcgan), batch_of((16, 16, 1))
  optimizers, state = state_of(objective, batch)
  with pytest.raises(
    UsageError, match=r'penalties\.r1 is of each image alone, but DCGANDiscriminator normalises over the batch'
  ):
    jax.eval_shape(step_of(objective, optimizers, playing=('discriminator',)), state, batch, jax.random.key(0))
  alone = dataclasses.replace(objective, discriminator=objective.discriminator.clone(norm='layer'))
  optimizers, state = state_of(alone, batch)
  _, logs = jax.eval_shape(step_of(alone, optimizers, playing=('discriminator',)), state, batch, jax.random.key(0))
  assert 'discriminator/r1' in logs


# Augmentation.


def test_translation_moves_by_whole_pixels_and_brings_grey_in():
  image = jax.random.uniform(jax.random.key(0), (64, 16, 16, 3), minval=0.1)
  moved = np.asarray(DiffAugment(('translation',))(KEYS[:64], image))
  seen = set()
  for before, after in zip(np.asarray(image), moved, strict=True):
    wide = np.pad(before, ((2, 2), (2, 2), (0, 0)))
    found = [(i, j) for i in range(5) for j in range(5) if np.array_equal(wide[i : i + 16, j : j + 16], after)]
    assert len(found) == 1
    seen |= set(found)
  assert len(seen) > 20  # of 25


def test_cutout_is_a_grey_square_of_half_the_side():
  image = jnp.ones((256, 16, 16, 1))
  holes = np.asarray(DiffAugment(('cutout',))(KEYS[:256], image) == 0).sum(axis=(1, 2, 3))
  assert holes.max() == 64
  assert holes.min() >= 16


def test_colours_keep_to_their_ranges():
  grey = jnp.zeros((512, 4, 4, 3))
  shift = np.asarray(DiffAugment(('color',))(KEYS, grey)).mean(axis=(1, 2, 3))
  assert -0.5 <= shift.min() < -0.45
  assert 0.45 < shift.max() <= 0.5
  assert abs(shift.mean()) < 0.05


@pytest.mark.parametrize('channels', [1, 3])
def test_adaptive_augmentation_does_nothing_at_p_0_and_much_at_1(channels):
  image = jnp.tanh(jax.random.normal(jax.random.key(0), (16, 8, 8, channels)))
  augment = jax.jit(AdaptiveAugment())
  at = lambda p: augment(KEYS[:16], image, {'p': jnp.asarray(p), 'r': jnp.zeros(())})  # noqa: E731
  np.testing.assert_array_equal(at(0.0), image)
  assert (jnp.abs(at(1.0) - image).mean(axis=(1, 2, 3)) > 0.05).all()
  some = (jnp.abs(at(0.05) - image).max(axis=(1, 2, 3)) > 1e-6).mean()
  assert 0.1 < float(some) < 0.9  # 1 - 0.95^11 is 0.43


def test_p_follows_the_discriminators_certainty():
  augment = AdaptiveAugment(target=0.6, kimg=1.0)
  sure, lost = jnp.ones(64), -jnp.ones(64)
  memory = augment.init()
  for _ in range(20):
    memory = augment.update(memory, sure, 100)
  assert float(memory['r']) == pytest.approx(1 - 0.9**20, rel=1e-4)
  p = float(memory['p'])
  assert p == pytest.approx(1.0, abs=0.2)  # 0 until r passed 0.6, then a tenth a step, at most 1
  for _ in range(20):
    memory = augment.update(memory, lost, 100)
  assert float(memory['p']) == 0.0


def test_gradients_flow_through_all_augmentation():
  image = jnp.tanh(jax.random.normal(jax.random.key(0), (4, 8, 8, 3)))
  for augment in (DiffAugment(), AdaptiveAugment()):
    memory = {'p': jnp.asarray(0.9), 'r': jnp.zeros(())}
    grad = jax.jit(jax.grad(lambda x, augment=augment, memory=memory: jnp.square(augment(KEYS[:4], x, memory)).sum()))(image)
    assert np.isfinite(grad).all()
    assert (jnp.abs(grad).max(axis=(1, 2, 3)) > 0).all()


# Growth.

GROWING = ProgressiveGAN(
  ProgressiveGenerator((16, 16, 1), z_dim=4, width=4),
  ProgressiveDiscriminator(width=4, stddev_group=1),
  num_classes=10,
  hold_steps=5,
  fade_steps=10,
)


def test_levels_follow_the_schedule():
  growth = [float(GROWING.growth(jnp.asarray(t))) for t in range(60)]
  assert growth[:7] == pytest.approx([0, 0, 0, 0, 0, 0, 0.1])
  assert growth[15] == growth[20] == 1
  assert growth[30:] == [2] * 30
  assert [GROWING.level(t) for t in range(60)] == [int(np.ceil(g - 1e-6)) for g in growth]
  assert playing(GROWING, 6) == ('discriminator', 'discriminator/level_1', 'generator', 'generator/level_1')


@pytest.mark.parametrize('step', [5, pytest.param(20, marks=pytest.mark.slow)])
def test_nothing_changes_at_the_moment_of_growth(step):
  # The step before a level begins to fade in, computed with it and without: the same images, answers, and new state.
  batch = batch_of((16, 16, 1))
  optimizers, state = state_of(GROWING, batch)
  state = state.replace(step=jnp.asarray(step))
  level = GROWING.level(step)
  results = []
  for top in (level, level + 1):
    turn = ('discriminator', f'discriminator/level_{top}', 'generator', f'generator/level_{top}')
    results.append(jax.jit(step_of(GROWING, optimizers, playing=turn))(state, batch, jax.random.key(3)))
  assert_close(results[0][0].params, results[1][0].params, 1e-5)
  assert_close(results[0][1], results[1][1], 1e-4)


def test_images_of_a_level_are_of_its_pixels_and_fade_into_the_next():
  batch = batch_of((16, 16, 1))
  _, state = state_of(GROWING, batch)

  def images(growth):
    buffers = state.buffers | {'generator': {'growth': {'level': jnp.asarray(growth)}}}
    return GROWING.from_latents(Variables(state.params, buffers), GROWING.latents(KEYS[:4]), jnp.eye(10)[:4], KEYS[:4])

  coarse, next_one = images(0.0), images(1.0)
  np.testing.assert_array_equal(coarse, jnp.repeat(jnp.repeat(coarse[:, ::4, ::4], 4, axis=1), 4, axis=2))
  assert float(jnp.abs(next_one - jnp.repeat(jnp.repeat(next_one[:, ::4, ::4], 4, axis=1), 4, axis=2)).max()) > 1e-3
  assert_close(images(0.3), 0.7 * coarse + 0.3 * next_one, 1e-5)


def test_what_cannot_grow_is_refused():
  with pytest.raises(UsageError, match='MLPGenerator does not grow, take ProgressiveGenerator'):
    ProgressiveGAN(MLPGenerator((8, 8, 1)), MLPDiscriminator())


# StyleGAN2 in the game.

STYLE = game(
  generator=StyleGAN2Generator((8, 8, 1), z_dim=4, w_dim=4, mapping_depth=2, width=4),
  discriminator=StyleGAN2Discriminator(width=4, stddev_group=1),
  num_classes=10,
  generator_penalties={'path': penalties.PathLength(every=1)},
)


def test_truncation_leads_to_the_mean_of_w():
  batch = batch_of()
  _, state = state_of(STYLE, batch)
  mean = jnp.array([0.5, -0.5, 1.0, 0.0])
  variables = Variables(state.params, state.buffers | {'generator': {'average': {'w': mean}}})
  keys = jax.vmap(lambda _: jax.random.key(0))(jnp.arange(4))  # the same noise, other latents
  z = jax.random.normal(jax.random.key(1), (4, 4))
  images = jax.jit(lambda truncation: STYLE.from_latents(variables, z, jnp.eye(10)[:4], keys, truncation))
  gone = images(0.0)
  assert_close(gone, jnp.broadcast_to(gone[:1], gone.shape), 1e-6)
  spread = [float(jnp.std(images(t), axis=0).mean()) for t in (0.3, 0.6, 1.0)]
  assert 0 < spread[0] < spread[1] < spread[2]


def test_the_mean_of_w_is_tracked_in_training():
  batch = batch_of()
  optimizers, state = state_of(STYLE, batch)
  after, _ = jax.jit(step_of(STYLE, optimizers, playing=('generator',)))(state, batch, jax.random.key(3))
  assert float(jnp.abs(after.buffers['generator']['average']['w']).max()) > 0


@pytest.mark.slow
@pytest.mark.parametrize('group', [1, 4])
def test_the_minibatch_deviation_is_the_exception_under_accumulation(group):
  # Groups are of neighbours: microbatches, which take every second image, have others.
  objective = game(discriminator=StyleGAN2Discriminator(width=4, stddev_group=group))
  batch = batch_of()
  optimizers, state = state_of(objective, batch)
  turn = ('discriminator',)
  whole, _ = jax.jit(step_of(objective, optimizers, playing=turn))(state, batch, jax.random.key(3))
  split, _ = jax.jit(step_of(objective, optimizers, playing=turn, accumulate=2))(state, batch, jax.random.key(3))
  differences = jax.tree.map(lambda a, b: float(jnp.abs(a - b).max()), whole.params, split.params)
  assert (max(jax.tree.leaves(differences)) < 1e-5) == (group == 1)
