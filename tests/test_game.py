"""The game of two: turns, terms, labels, what is refused; games that grow, and with styles."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from genjax import optim, rng
from genjax.build import build, fill_inferred
from genjax.conditioners import ClassLabel, Unconditional
from genjax.errors import UsageError
from genjax.networks.dcgan import PatchDiscriminator
from genjax.networks.mlp import MLPDiscriminator, MLPGenerator
from genjax.networks.progressive import ProgressiveDiscriminator, ProgressiveGenerator
from genjax.networks.stylegan2 import MEAN_OF, StyleGAN2Discriminator, StyleGAN2Generator
from genjax.objectives.gan import losses, penalties
from genjax.objectives.gan.augment import AdaptiveAugment, DiffAugment
from genjax.objectives.gan.gan import GAN, Plan
from genjax.objectives.gan.progressive import ProgressiveGAN
from genjax.step import init_state, turn_at
from genjax.types import Variables
from tests.conftest import assert_close, batch_of, step_of

KEYS = rng.image_keys(jax.random.key(0), jnp.arange(512))


DISCRIMINATOR, GENERATOR = (('discriminator', Plan()),), (('generator', Plan()),)
EVERYONE = DISCRIMINATOR + GENERATOR
TEN = ClassLabel(10)
FOUR = TEN.embed({'label': jnp.arange(4)})


def random_batch(shape=(8, 8, 1), size=8):
  return batch_of(jnp.tanh(jax.random.normal(jax.random.key(1), (size, *shape))))


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


class Dropping(MLPGenerator):
  dropout: float = 0.0


LOSSES = [
  losses.Minimax(), losses.NonSaturating(), losses.LeastSquares(), losses.Wasserstein(),
  losses.Hinge(), losses.RelativisticPairing()
]  # fmt: skip


@pytest.mark.parametrize('loss', LOSSES, ids=lambda loss: type(loss).__name__)
def test_a_step_of_each_player_lowers_its_own_loss(loss):
  objective, batch = game(loss=loss, conditioner=TEN), random_batch(size=64)
  optimizers, state = state_of(objective, batch, {player: optax.sgd(1e-2) for player in ('discriminator', 'generator')})
  for player in objective.players:
    step = jax.jit(step_of(objective, optimizers, turn=((player, Plan()),)))
    after, before = step(state, batch, jax.random.key(3))
    _, again = step(after.replace(step=state.step), batch, jax.random.key(3))
    assert float(again[f'{player}/loss']) < float(before[f'{player}/loss'])


def test_turns_and_lazy_terms_are_counted_exactly():
  objective = game(
    penalties={'r1': penalties.R1(1.0, every=16), 'r2': penalties.R2(1.0)},
    generator_penalties={'path': penalties.PathLength(every=4)},
    critic_steps=2,
  )
  turns = [turn_at(objective, t) for t in range(32)]
  plans = {name: [dict(turn).get(name) for turn in turns] for name in ('discriminator', 'generator')}
  assert all(plans['discriminator'])
  assert [t for t in range(32) if plans['generator'][t] is not None] == list(range(0, 32, 2))
  assert [t for t in range(32) if plans['discriminator'][t].penalties] == [0, 16]
  # Each fourth time that the generator plays, so that it counts as one of every time.
  assert [t for t in range(32) if plans['generator'][t] and plans['generator'][t].penalties] == [0, 8, 16, 24]
  assert turns[0] == (('discriminator', Plan(('r1',))), ('generator', Plan(('path',))))
  assert turns[1] == (('discriminator', Plan()),)
  assert len(set(turns)) == 4  # programs that are compiled


def test_a_lazy_penalty_counts_as_much_as_one_of_every_step():
  batch = random_batch()
  always, lazy = (game(penalties={'r1': penalties.R1(1.0, every)}) for every in (1, 4))
  optimizers, state = state_of(always, batch)

  def moved(objective, turn):
    after, logs = jax.jit(step_of(objective, optimizers, turn=turn))(state, batch, jax.random.key(3))
    return jax.tree.map(lambda a, b: a - b, after.params, state.params), logs

  without, logs = moved(lazy, DISCRIMINATOR)
  assert 'discriminator/r1' not in logs
  with_it, logs = moved(lazy, (('discriminator', Plan(('r1',))),))
  each, logs_each = moved(always, DISCRIMINATOR)
  assert float(logs['discriminator/r1']) == pytest.approx(float(logs_each['discriminator/r1']), rel=1e-5)
  difference = jax.tree.map(lambda a, b, c: (a - b) - 4 * (c - b), with_it, without, each)
  assert max(float(jnp.abs(x).max()) for x in jax.tree.leaves(difference)) < 1e-5


EVERYTHING = {
  'penalties': {
    'gp': penalties.GradientPenalty(1.0),
    'dragan': penalties.DRAGAN(1.0),
    'r1': penalties.R1(1.0),
    'consistency': penalties.ConsistencyRegularization(1.0, generated=1.0),
  },
  'generator_penalties': {'path': penalties.PathLength(every=1), 'jacobian': penalties.JacobianVariation(every=1)},
}


@pytest.mark.slow
@pytest.mark.parametrize('penalized', [False, True])
def test_microbatches_change_nothing_whatever_is_remembered(penalized):
  objective = game(**(EVERYTHING if penalized else {}), augment=AdaptiveAugment(kimg=0.1))
  batch, accumulate = random_batch(), 2
  optimizers, state = state_of(objective, batch)
  memory = {'p': jnp.asarray(0.5), 'r': jnp.asarray(0.9)}
  remembered = {'path': jnp.asarray(0.3), 'jacobian': jnp.array([2.0, 0.7])}
  state = state.replace(buffers={'augment': memory} | ({'penalties': remembered} if penalized else {}))
  whole, _ = jax.jit(step_of(objective, optimizers, turn=EVERYONE))(state, batch, jax.random.key(3))
  split, _ = jax.jit(step_of(objective, optimizers, turn=EVERYONE, accumulate=accumulate))(state, batch, jax.random.key(3))
  assert_close(whole.params, split.params, 1e-4)
  assert_close(whole.buffers, split.buffers, 1e-4)
  assert float(whole.buffers['augment']['p']) == pytest.approx(0.5 + 8 / 100)
  assert not penalized or float(whole.buffers['penalties']['path']) != 0.3


def test_weights_are_clipped():
  batch = random_batch()
  objective = game(loss=losses.Wasserstein())
  optimizers = {'discriminator': optim.rmsprop(5e-2, clip_weights=0.03), 'generator': optim.rmsprop(5e-2)}
  _, state = state_of(objective, batch, optimizers)
  after, _ = jax.jit(step_of(objective, optimizers, turn=EVERYONE))(state, batch, jax.random.key(3))
  largest = {name: max(float(jnp.abs(x).max()) for x in jax.tree.leaves(tree)) for name, tree in after.params.items()}
  assert largest['discriminator'] == pytest.approx(0.03)
  assert largest['generator'] > 0.1
  with pytest.raises(UsageError, match='clip_weights=-1 must not be negative'):
    optim.rmsprop(1e-3, clip_weights=-1)


@pytest.mark.parametrize('conditioning', ['concat', 'projection', 'classifier'])
def test_conditioning_of_the_discriminator_on_the_class(conditioning):
  discriminator = MLPDiscriminator(width=8, conditioning=conditioning)
  objective, batch = game(discriminator=discriminator, conditioner=TEN), random_batch()
  optimizers, state = state_of(objective, batch)
  embedded = TEN.embed(batch.cond)
  rolled = TEN.embed({'label': jnp.roll(batch.cond['label'], 1)})
  answers, _ = objective.discriminate(state.params, {}, batch.image, embedded)
  others, _ = objective.discriminate(state.params, {}, batch.image, rolled)
  depends = bool((jnp.abs(answers.logits - others.logits) > 1e-4).all())
  assert depends == (conditioning != 'classifier')
  assert (answers.classes is not None) == (conditioning == 'classifier')
  _, logs = jax.jit(step_of(objective, optimizers, turn=EVERYONE))(state, batch, jax.random.key(3))
  if conditioning == 'classifier':  # near chance at the start: log 10 for real and generated images
    assert float(logs['d_classes']) == pytest.approx(2 * np.log(10), rel=0.2)
    assert answers.classes.shape == (8, 10)
  with pytest.raises(UsageError, match=r"conditioning='embedding' .*concat, projection, classifier"):
    MLPDiscriminator(conditioning='embedding').init(jax.random.key(0), batch.image, embedded)


def test_what_does_not_fit_is_refused():
  with pytest.raises(UsageError, match=r'objective.critic_steps=0 must be 1 or more'):
    game(critic_steps=0)
  with pytest.raises(UsageError, match=r'objective.penalties.path is PathLength, but must be a penalty on the discriminator'):
    game(penalties={'path': penalties.PathLength()})
  with pytest.raises(UsageError, match=r'objective.generator_penalties.r1 is int, but must be a penalty on the generator'):
    game(generator_penalties={'r1': 3})
  with pytest.raises(UsageError, match=r"objective.penalties: 'loss' cannot be the name of a penalty"):
    game(penalties={'loss': penalties.R1(1.0)})
  with pytest.raises(UsageError, match=r'R1: weight=-1.0 must be 0 or more and finite'):
    penalties.R1(-1.0)
  with pytest.raises(UsageError, match=r'R2: weight=nan must be 0 or more and finite'):
    penalties.R2(float('nan'))
  with pytest.raises(UsageError, match=r"'colour'.*color"):
    DiffAugment(('colour',))
  with pytest.raises(UsageError, match=r'objective.auxiliary=-1 must not be negative'):
    game(auxiliary=-1)
  with pytest.raises(UsageError, match=r"objective.auxiliary=2.0: .* set its conditioning='classifier'"):
    game(auxiliary=2.0)
  with pytest.raises(UsageError, match=r'MLPDiscriminator must be a generator and MLPDiscriminator a discriminator'):
    game(generator=MLPDiscriminator())
  with pytest.raises(UsageError, match=r'objective.augment: R1 is not an augmentation, use DiffAugment or AdaptiveAugment'):
    game(augment=penalties.R1(1.0))
  with pytest.raises(UsageError, match=r"conditioning='classifier' needs classes: set objective.conditioner"):
    game(discriminator=MLPDiscriminator(conditioning='classifier'))
  with pytest.raises(
    UsageError, match=r'discriminator: PatchDiscriminator returns \[8, 2, 2\] for 8 images, but must return \[8\] or'
  ):
    game(discriminator=PatchDiscriminator(width=4), conditioner=TEN).init(jax.random.key(0), random_batch())
  with pytest.raises(
    UsageError, match=r'objective.generator: MLPGenerator generates images \[4, 4, 1\], but the data have \[8, 8, 1\]'
  ):
    game(generator=MLPGenerator((4, 4, 1), 4, 8, 1)).init(jax.random.key(0), random_batch())
  with pytest.raises(UsageError, match=r'objective.generator.dropout=0.1: GAN does not support dropout, set it to 0'):
    game(generator=Dropping((8, 8, 1), dropout=0.1))
  with pytest.raises(UsageError, match=r'JacobianVariation: radius=1.5 must be above 0 and 1 at most'):
    penalties.JacobianVariation(radius=1.5)
  with pytest.raises(UsageError, match=r'DRAGAN: deviation=-1 must be positive'):
    penalties.DRAGAN(deviation=-1)
  with pytest.raises(UsageError, match=r'DiffAugment: policy is empty'):
    DiffAugment(())
  with pytest.raises(UsageError, match=r'truncation=-3.0 must not be negative'):
    game().sample(None, KEYS, {}, truncation=-3.0)
  with pytest.raises(UsageError, match=r'objective.generator.mixing=1.5 must be in'):
    StyleGAN2Generator((8, 8, 1), mixing=1.5).init(jax.random.key(0), jnp.zeros((1, 512)), {}, True, KEYS[:1])
  with pytest.raises(UsageError, match=r'AdaptiveAugment: target=2 '):
    AdaptiveAugment(target=2)
  dcgan = fill_inferred(
    {
      'cls': 'objectives.gan.gan.GAN',
      'generator': {'cls': 'networks.dcgan.DCGANGenerator', 'width': 8},
      'discriminator': {'cls': 'networks.dcgan.DCGANDiscriminator', 'width': 8},
      'penalties': {'r1': {'cls': 'objectives.gan.penalties.R1', 'weight': 1.0}},
    },
    {'image_shape': (16, 16, 1), 'dtype': 'float32'},
  )
  objective, batch = build(dcgan), random_batch((16, 16, 1))
  optimizers, state = state_of(objective, batch)
  with pytest.raises(
    UsageError, match=r'penalties\.r1 needs independent images, but DCGANDiscriminator normalizes over the batch'
  ):
    jax.eval_shape(step_of(objective, optimizers, turn=DISCRIMINATOR), state, batch, jax.random.key(0))
  alone = dataclasses.replace(objective, discriminator=objective.discriminator.clone(norm='layer'))
  optimizers, state = state_of(alone, batch)
  _, logs = jax.eval_shape(step_of(alone, optimizers, turn=DISCRIMINATOR), state, batch, jax.random.key(0))
  assert 'discriminator/r1' in logs


# Growth.

GROWING = ProgressiveGAN(
  ProgressiveGenerator((16, 16, 1), z_dim=4, width=4),
  ProgressiveDiscriminator(width=4, stddev_group=1),
  conditioner=TEN,
  hold_steps=5,
  fade_steps=10,
)


def test_levels_follow_the_schedule():
  growth = [float(GROWING.growth(jnp.asarray(t))) for t in range(60)]
  assert growth[:7] == pytest.approx([0, 0, 0, 0, 0, 0, 0.1])
  assert growth[15] == growth[20] == 1
  assert growth[30:] == [2] * 30
  assert GROWING.grown_at == 30
  assert [GROWING.top(t) for t in range(60)] == [int(np.ceil(g - 1e-6)) for g in growth]
  assert turn_at(GROWING, 6) == (('discriminator', Plan(top=1)), ('generator', Plan(top=1)))


@pytest.mark.slow
@pytest.mark.parametrize('step', [5, 20])
def test_nothing_changes_at_the_moment_of_growth(step):
  # The step before a level begins to fade in, computed with it and without: the same images, answers, and new state.
  batch = random_batch((16, 16, 1))
  optimizers, state = state_of(GROWING, batch)
  state = state.replace(step=jnp.asarray(step))
  level = GROWING.top(step)
  results = []
  for top in (level, level + 1):
    turn = tuple((player, Plan(top=top)) for player in ('discriminator', 'generator'))
    results.append(jax.jit(step_of(GROWING, optimizers, turn=turn))(state, batch, jax.random.key(3)))
  assert_close(results[0][0].params, results[1][0].params, 1e-5)
  assert_close(results[0][1], results[1][1], 1e-4)


@pytest.mark.slow
def test_images_of_a_level_are_of_its_pixels_and_fade_into_the_next():
  batch = random_batch((16, 16, 1))
  _, state = state_of(GROWING, batch)

  def images(growth):
    buffers = state.buffers | {'generator': {'growth': {'level': jnp.asarray(growth)}}}
    return GROWING.from_latents(Variables(state.params, buffers), GROWING.latents(KEYS[:4]), FOUR, KEYS[:4])

  coarse, next_one = images(0.0), images(1.0)
  np.testing.assert_array_equal(coarse, jnp.repeat(jnp.repeat(coarse[:, ::4, ::4], 4, axis=1), 4, axis=2))
  assert float(jnp.abs(next_one - jnp.repeat(jnp.repeat(next_one[:, ::4, ::4], 4, axis=1), 4, axis=2)).max()) > 1e-3
  assert_close(images(0.3), 0.7 * coarse + 0.3 * next_one, 1e-5)


def test_networks_that_grow_have_lazy_penalties():
  named = dataclasses.replace(GROWING, penalties={'level_9': penalties.R1(1.0, every=2)})
  assert turn_at(named, 0)[0] == ('discriminator', Plan(('level_9',), 0))
  batch = random_batch((16, 16, 1))
  optimizers, state = state_of(named, batch)
  step = step_of(named, optimizers, turn=turn_at(named, 0))
  _, logs = jax.eval_shape(step, state, batch, jax.random.key(0))
  assert 'discriminator/level_9' in logs


def test_a_generator_that_normalizes_z_has_no_truncation():
  with pytest.raises(UsageError, match=r'truncation=0.5 has no effect with ProgressiveGenerator'):
    GROWING.sample(Variables({}, {}), KEYS[:2], {}, truncation=0.5)


def test_what_cannot_grow_is_refused():
  with pytest.raises(UsageError, match='MLPGenerator does not grow, use ProgressiveGenerator'):
    ProgressiveGAN(MLPGenerator((8, 8, 1)), MLPDiscriminator())
  with pytest.raises(UsageError, match='StyleGAN2Discriminator does not grow, use ProgressiveDiscriminator'):
    ProgressiveGAN(ProgressiveGenerator((8, 8, 1)), StyleGAN2Discriminator())
  with pytest.raises(UsageError, match=r'objective.generator: ProgressiveGenerator grows, use objective ProgressiveGAN'):
    GAN(ProgressiveGenerator((8, 8, 1)), MLPDiscriminator())


# StyleGAN2 in the game.

STYLE = game(
  generator=StyleGAN2Generator((8, 8, 1), z_dim=4, w_dim=4, mapping_depth=2, width=4),
  discriminator=StyleGAN2Discriminator(width=4, stddev_group=1),
  conditioner=TEN,
  generator_penalties={'path': penalties.PathLength(every=1)},
)


@pytest.mark.slow
def test_truncation_leads_to_the_mean_of_w_of_the_class():
  _, state = state_of(STYLE, random_batch())
  variables = Variables(state.params, state.buffers)
  z, classes = jax.random.normal(jax.random.key(1), (2000, 4)), jnp.arange(2000) % 2
  embedded = TEN.embed({'label': classes})
  w = jax.jit(lambda truncation: STYLE.styles(variables, z, embedded, truncation))
  gone, whole = w(0.0), w(1.0)
  for n in (0, 1):
    own, mean = gone[classes == n], whole[classes == n].mean(axis=0)
    assert_close(own, jnp.broadcast_to(own[:1], own.shape), 1e-6)
    error = whole.std(axis=0) * (1 / 1000 + 1 / MEAN_OF) ** 0.5
    assert (jnp.abs(own[0] - mean) < 4 * error).all()
  assert (jnp.abs(gone[0] - gone[1]) > 4 * error).any()  # the classes' means are not one
  assert_close(w(0.3), gone + 0.3 * (whole - gone), 1e-5)
  assert_close(STYLE.styles(variables, z, embedded), whole, 1e-6)


@pytest.mark.slow
def test_truncation_of_a_model_without_labels_leads_to_one_mean():
  game = dataclasses.replace(STYLE, conditioner=Unconditional())
  _, state = state_of(game, random_batch())
  z = jax.random.normal(jax.random.key(1), (500, 4))
  w = functools.partial(game.styles, Variables(state.params, state.buffers), z, {})
  assert_close(w(0.0), jnp.broadcast_to(w(0.0)[:1], (500, 4)), 1e-6)
  assert (jnp.abs(w(0.0)[0] - w().mean(axis=0)) < 4 * w().std(axis=0) * (1 / 500 + 1 / MEAN_OF) ** 0.5).all()


@pytest.mark.slow
def test_the_jacobian_s_variation_is_of_z_and_the_length_of_paths_of_w():
  wide = dataclasses.replace(STYLE, generator=STYLE.generator.clone(z_dim=3))
  _, state = state_of(wide, random_batch())
  keys = KEYS[:4]
  (z, of_z), (w, of_w) = (wide.map_of(state.params, state.buffers, keys, keys, FOUR, wrt_w) for wrt_w in (False, True))
  assert (z.shape, w.shape) == ((4, 3), (4, 4))
  np.testing.assert_array_equal(z, rng.normal(keys, (3,)))
  assert_close(of_z(z), of_w(w), 1e-6)
  num_latents = {}
  for name in ('PathLength', 'JacobianVariation'):
    kind = getattr(penalties, name)

    class Watched(kind):
      def __call__(self, generate, latents, keys, memory, name=name):
        num_latents[name] = latents.shape[1]
        return jnp.zeros(()), memory

    objective = dataclasses.replace(wide, generator_penalties={'it': Watched(every=1)})
    optimizers, state = state_of(objective, random_batch())
    jax.eval_shape(step_of(objective, optimizers, turn=GENERATOR), state, random_batch(), jax.random.key(0))
  assert num_latents == {'PathLength': 4, 'JacobianVariation': 3}


@pytest.mark.slow
@pytest.mark.parametrize('group', [1, 4])
def test_the_minibatch_deviation_is_the_exception_under_accumulation(group):
  # Groups are of neighbors: microbatches, which take every second image, have others.
  objective = game(discriminator=StyleGAN2Discriminator(width=4, stddev_group=group))
  batch = random_batch()
  optimizers, state = state_of(objective, batch)
  whole, _ = jax.jit(step_of(objective, optimizers, turn=DISCRIMINATOR))(state, batch, jax.random.key(3))
  split, _ = jax.jit(step_of(objective, optimizers, turn=DISCRIMINATOR, accumulate=2))(state, batch, jax.random.key(3))
  differences = jax.tree.map(lambda a, b: float(jnp.abs(a - b).max()), whole.params, split.params)
  assert (max(jax.tree.leaves(differences)) < 1e-5) == (group == 1)
