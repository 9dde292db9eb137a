"""Post-hoc EMA: reconstructed averages are those that would have been tracked."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

import evaluate
import genjax
import sample
from genjax import posthoc
from genjax.errors import UsageError
from genjax.optim import EMA, PostHoc, gamma_of_std
from genjax.parallel import make_mesh
from genjax.posthoc import Profile, fit_weights, inner_product
from tests.conftest import same_bits
from tests.programs import train

S = np.linspace(0, 1, 2_000_001)


def density(profile, end):
  """The profile on [0, end], on the points `end` S, by its definition."""
  gamma = gamma_of_std(profile.std)
  s = end * S
  return np.where(s <= profile.step, (gamma + 1) * (s / profile.step) ** gamma / profile.step, 0)


@pytest.mark.parametrize('std', [0.01, 0.05, 0.1, 0.2, 0.28])
def test_gamma_has_the_standard_deviation(std):
  p = density(Profile(1, std), 1)
  mean = np.trapezoid(p * S, S)
  assert np.sqrt(np.trapezoid(p * (S - mean) ** 2, S)) == pytest.approx(std, rel=1e-4)


def test_the_paper_s_exponents():
  assert [round(gamma_of_std(std), 2) for std in (0.05, 0.1)] == [16.97, 6.94]  # 2312.02696, section 3.1


@pytest.mark.parametrize('std', [0.0, -0.1, 0.3, 1.0, 1, float('nan')])
def test_widths_out_of_range_are_refused(std):
  with pytest.raises(UsageError, match='ema='):
    gamma_of_std(std)


def test_inner_products_are_integrals():
  for a, b in ((Profile(700, 0.05), Profile(1000, 0.1)), (Profile(1000, 0.2), Profile(1000, 0.2))):
    expected = np.trapezoid(density(a, 1000) * density(b, 1000), 1000 * S)
    assert inner_product(a, b) == pytest.approx(expected, rel=1e-5)
  assert np.isfinite(inner_product(Profile(10**9, 0.02), Profile(10**8, 0.02)))  # their powers overflow


def test_a_tracked_profile_is_reconstructed_exactly():
  sources = [Profile(step, std) for step in (100, 200, 300) for std in (0.05, 0.1)]
  weights, error = fit_weights(sources, Profile(300, 0.1))
  np.testing.assert_allclose(weights, [0, 0, 0, 0, 0, 1], atol=1e-6)
  assert error < 1e-6


def test_a_reconstructed_average_is_the_one_that_was_tracked(tmp_path):
  """A random walk of parameters over 600 steps; averages of a third and a fourth width are tracked, too."""
  walk = np.cumsum(np.random.default_rng(0).normal(size=(600, 50)), axis=0).astype(np.float32)
  kept, others = PostHoc(EMA(100.0)), PostHoc(stds=(0.15, 0.03))
  update = jax.jit(lambda a, p, step, which: which.update(a, p, step, 1), static_argnums=3)
  averages = {which: which.init({'w': jnp.asarray(walk[0])}) for which in (kept, others)}
  for step, params in enumerate(walk):
    for which in averages:
      averages[which] = update(averages[which], {'w': params}, step, which)
    if (step + 1) % 20 == 0:
      posthoc.save_averages(tmp_path, step + 1, {'model': averages[kept]}, kept.stds, make_mesh(jax.devices()[:1]))
  gamma, t = gamma_of_std(0.15), np.arange(600)
  weights = ((t + 1) / 600) ** (gamma + 1) - (t / 600) ** (gamma + 1)  # of the continuous profile
  tracked = averages[others].power
  np.testing.assert_allclose(tracked[0]['w'], weights @ walk, atol=0.03 * walk.std())
  for std, expected in zip(others.stds, tracked, strict=True):
    actual = posthoc.reconstruct(tmp_path, 600, {'model': averages[kept]}, kept.stds, std)['model']['w']
    distance = np.abs(actual - expected['w']).max()
    nearest = min(np.abs(np.asarray(other['w']) - expected['w']).max() for other in averages[kept].power)
    assert distance < 0.1 * nearest
  earlier = posthoc.reconstruct(tmp_path, 600, {'model': averages[kept]}, kept.stds, 0.1)['model']['w']
  np.testing.assert_allclose(earlier, averages[kept].power[1]['w'], atol=1e-4 * walk.std())
  with pytest.raises(UsageError, match=r'0\.005.*train.posthoc_every'):  # narrower than the distance of the files
    posthoc.reconstruct(tmp_path, 600, {'model': averages[kept]}, kept.stds, 0.005)
  posthoc.averages_path(tmp_path, 300).write_bytes(b'{')
  with pytest.raises(UsageError, match='step_00000300'):
    posthoc.reconstruct(tmp_path, 600, {'model': averages[kept]}, kept.stds, 0.15)


OPTIONS = ['--config.train.steps=500', '--config.train.posthoc_every=1', '--config.train.checkpoint_every=250']


@pytest.fixture(scope='module')
def run(tmp_path_factory):
  path = tmp_path_factory.mktemp('posthoc') / 'run'
  train('digits_vae', path, *OPTIONS)
  return path


def files(path):
  return [file.name for file in sorted((path / 'posthoc').iterdir())]


def weights_of(run):
  return np.concatenate([np.ravel(x) for x in jax.tree.leaves(run.variables.params)])


def test_a_run_keeps_averages_and_opens_with_any_width(run, tmp_path, capsys):
  assert files(run) == [f'step_{step:08d}.safetensors' for step in (125, 250, 375, 500)]
  widths = {std: weights_of(genjax.load(run, ema=std)) for std in (0.05, 0.1, 0.14)}
  main, last = weights_of(genjax.load(run)), weights_of(genjax.load(run, ema=False))
  distances = {std: np.abs(x - last).mean() for std, x in widths.items()}
  assert 0 < distances[0.05] < distances[0.1] < distances[0.14]
  assert np.abs(main - widths[0.05]).max() > 0
  assert genjax.load(run, step=250, ema=0.1).step == 250
  sample.main(['--run', str(run), '--n', '2', '--ema', '0.14', '--npz', str(tmp_path / 'x.npz')])
  with np.load(tmp_path / 'x.npz') as file:
    assert json.loads(str(file['options']))['ema'] == 0.14
  copy = genjax.load(run, ema=0.14).export(tmp_path / 'copy')
  np.testing.assert_array_equal(weights_of(genjax.load(copy)), widths[0.14])
  capsys.readouterr()


def test_several_widths_are_evaluated_as_a_curve(run, cache, capsys, tmp_path):
  with pytest.raises(UsageError, match='ema=x'):
    evaluate.main(['--run', str(run), '--samples', '100', '--ema', '0.06,x'])
  assert not (run / 'evaluation').exists()  # before anything is evaluated
  evaluate.main(['--run', str(run), '--samples', '100', '--likelihood', '0', '--ema', '0.06,0.1'])
  cards = [json.loads(path.read_text()) for path in (run / 'evaluation').glob('*.json')]
  assert sorted(card['model']['ema_std'] for card in cards) == [0.06, 0.1]
  assert len({card['metrics']['fid'] for card in cards}) == 2
  assert 'ema_00000500.png' in capsys.readouterr().out
  assert (run / 'evaluation' / 'ema_00000500.png').is_file()
  folder = genjax.load(run, ema=0.1).export(tmp_path / 'export')
  (card,) = [json.loads(path.read_text()) for path in (folder / 'evaluation').glob('*.json')]  # of these weights alone
  assert card['model']['ema_std'] == 0.1
  assert 'width 0.1' in (folder / 'README.md').read_text()
  assert not (genjax.load(run).export(tmp_path / 'own') / 'evaluation').exists()


def test_a_missing_file_of_the_last_step_is_written_on_resume(run):
  path = posthoc.averages_path(run, 500)
  before = load_file(path)
  path.unlink()
  train('digits_vae', run, *OPTIONS)
  assert same_bits(load_file(path), before)


def test_what_does_not_fit_is_refused(run, tmp_path):
  train('digits_vae', tmp_path / 'plain', '--config.train.steps=2')
  with pytest.raises(UsageError, match=r'train\.posthoc_every'):
    genjax.load(tmp_path / 'plain', ema=0.1)
  for words, named in (
    (['--ema', 'wide'], '--ema=wide'),
    (['--ema', '0.1', '--no_ema'], '--no_ema'),
    (['--ema', '0.5'], '0.5'),
  ):
    with pytest.raises(UsageError, match=named):
      sample.main(['--run', str(run), *words])


@pytest.mark.slow
@pytest.mark.parametrize('strategy', ['fsdp', 'pmap'])
def test_other_strategies_write_the_same_averages(run, tmp_path, strategy):
  env = {'JAX_NUM_CPU_DEVICES': '4'}
  train('digits_vae', tmp_path / 'run', *OPTIONS, f'--config.train.strategy={strategy}', env=env)
  assert files(tmp_path / 'run') == files(run)
  a, b = (weights_of(genjax.load(path, ema=0.12)) for path in (run, tmp_path / 'run'))
  np.testing.assert_allclose(a, b, atol=0.02 * np.abs(a).max())
