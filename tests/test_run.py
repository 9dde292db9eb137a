"""A run directory: what is in it, opened by load and sample.py."""

import dataclasses
import json
import re
import shutil
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import genjax
import sample
from genjax import rng
from genjax.build import build
from genjax.checkpoint import Checkpoints
from genjax.commandline import check_guide, parse_options
from genjax.conditioners import ClassLabel
from genjax.degradations.measurement import Degradation
from genjax.degradations.operators import Clip, Downsample, HalfMask
from genjax.errors import UsageError
from genjax.images import to_uint8
from genjax.parallel import make_mesh, replicated
from genjax.run import _compiled, _interpolated, _restored, abstract_state
from genjax.samplers.sampler import Sampler
from genjax.types import Variables
from genjax.workdir import read_config
from tests.conftest import ROOT
from tests.programs import ENV, train
from tests.test_logging import pictures


def size(path):
  with Image.open(path) as image:
    return image.size


@pytest.fixture(scope='module')
def runs(tmp_path_factory):
  """A run of each family, 10 steps, made when first asked for."""
  made = {}

  def run(name):
    if name not in made:
      made[name] = tmp_path_factory.mktemp(name) / 'run'
      train(name, made[name], '--config.train.steps=10', '--config.train.checkpoint_every=5')
    return made[name]

  return run


def test_a_run_directory_holds_what_is_promised(runs):
  path = runs('digits_flow')
  config = json.loads((path / 'config.json').read_text())
  assert config['data']['image_shape'] == [8, 8, 1]
  assert config['objective']['network']['width'] == 8
  assert config['objective']['cond_dropout'] == 0.1  # defaults written out
  environment = json.loads((path / 'environment.json').read_text())
  assert environment['versions']['jax'] == jax.__version__
  lines = [json.loads(line) for line in (path / 'metrics.jsonl').read_text().splitlines()]
  assert [line['step'] for line in lines] == [5, 10]
  assert lines[1]['kimg'] == 0.08
  assert {'model/loss', 'model/grad_norm', 'images_per_second'} <= set(lines[1])
  assert [line for line in lines if 'compile_seconds' in line] == lines[:1]
  assert size(path / 'samples' / 'step_00000010.png') == (10 * 66 - 2, 18 + 8 * 66 - 2)
  assert pictures(path / 'tensorboard').keys() == {('samples', 80)}


def test_sampling_several_batches_shows_progress_on_a_terminal_if_asked(runs, monkeypatch, capsys):
  run, key = genjax.load(runs('digits_vae')), jax.random.key(0)
  images = run.sample(key, 10, batch_size=4)
  monkeypatch.setattr('genjax.run.on_terminal', lambda: True)
  run.sample(key, 10, batch_size=4)
  run.sample(key, 10, progress=True)  # one batch
  assert capsys.readouterr().err == ''
  assert np.array_equal(run.sample(key, 10, batch_size=4, progress=True), images)
  assert 'sampling' in capsys.readouterr().err
  monkeypatch.setattr('genjax.run.on_terminal', lambda: False)
  run.sample(key, 10, batch_size=4, progress=True)
  assert capsys.readouterr().err == ''


@pytest.mark.slow
def test_an_autoencoder_shows_what_it_makes_of_held_out_images(runs):
  path = runs('digits_vae')
  for name, rows in (('reconstructions', 2), ('interpolation', 5), ('traversal', 8)):
    assert size(path / 'previews' / name / 'step_00000010.png') == (10 * 66 - 2, rows * 66 - 2)
  run, key = genjax.load(path), jax.random.key(0)
  images = np.tanh(np.random.default_rng(0).normal(size=(4, 8, 8, 1)))
  found = run.previews(key, images, label=[0, 1, 2, 3])
  assert {name: x.shape[:2] for name, x in found.items()} == {
    'reconstructions': (2, 4), 'interpolation': (2, 10), 'traversal': (8, 10)
  }  # fmt: skip
  np.testing.assert_allclose(found['reconstructions'][0], images, atol=1e-6)
  np.testing.assert_allclose(found['interpolation'][1, -1], found['reconstructions'][1, 3], atol=1e-5)
  assert run.walk(key, stops=2, frames=3, label=1).shape == (3, 8, 8, 1)
  np.testing.assert_allclose(run.walk(key, 2, 3, label=1)[0], run.sample(key, 1, label=1)[0], atol=1e-5)
  with pytest.raises(UsageError, match=r'truncation=-1 must not be negative, and must be finite'):
    run.walk(key, 2, 3, label=1, truncation=-1)
  with pytest.raises(UsageError, match=r"truncation='a'"):
    run.walk(key, 2, 3, label=1, truncation='a')
  with pytest.raises(UsageError, match=r'label must be one'):
    run.walk(key, 2, 3, label=[1, 2])
  with pytest.raises(UsageError, match=r'stops=2.5 must be an integer'):
    run.walk(key, 2.5, 3)
  for wrong, message in (
    ((images[:, :4], 0), r'images: .*two or more \(8, 8, 1\) in \[-1, 1\] as floats, not float32 \(4, 4, 8, 1\)'),
    ((images.astype(np.uint8), 0), 'not uint8'),
    ((images[:1], 0), 'two or more'),
    ((images, None), 'label: '),
    ((images, 10), 'label=10: this model has the classes 0 to 9'),
  ):
    with pytest.raises(UsageError, match=message):
      run.previews(key, wrong[0], label=wrong[1])
  with pytest.raises(UsageError, match=r'label: '):
    run.previews(key, images)
  with pytest.raises(UsageError, match='Diffusion has no encoder'):
    genjax.load(runs('digits_flow')).previews(key, images)
  with pytest.raises(UsageError, match='VAE has no generator'):
    run.mix(key)


def test_load_and_sample(runs):
  run = genjax.load(runs('digits_flow'))
  images = run.sample(jax.random.key(0), 6, label=3, steps=2)
  assert images.shape == (6, 8, 8, 1)
  assert float(images.min()) >= -1
  assert float(images.max()) <= 1
  np.testing.assert_allclose(images[:4], run.sample(jax.random.key(0), 4, label=3, steps=2), atol=1e-5)
  np.testing.assert_allclose(images, run.sample(jax.random.key(0), 6, label=3, steps=2, batch_size=4), atol=1e-5)
  other = run.sample(jax.random.key(0), 6, label=[3, 3, 3, 3, 3, 4], steps=2)
  np.testing.assert_allclose(images[:5], other[:5], atol=1e-5)
  before = _compiled._cache_size()
  run.sample(jax.random.key(9), 6, label=5, steps=2)
  np.testing.assert_array_equal(run.sample(jax.random.key(0), 6, label='3', steps=2), images)  # by name
  assert _compiled._cache_size() == before  # compiled once per shape and options
  guided = [run.sample(jax.random.key(0), 6, label=3, steps=2, guidance=scale) for scale in (2.0, 3.0)]
  assert _compiled._cache_size() == before + 1  # numbers that are not whole are traced
  assert float(jnp.abs(guided[0] - guided[1]).max()) > 1e-4
  assert {'solver': 'heun', 'steps': 25, 'guidance': 1.0}.items() <= run.options.items()


@pytest.mark.slow
def test_the_moving_average_is_not_the_parameters(runs):
  path = runs('digits_vae')
  a, b = (jax.tree.leaves(genjax.load(path, ema=ema).variables.params) for ema in (True, False))
  assert any((x != y).any() for x, y in zip(a, b, strict=True))
  config = read_config(path)
  like = abstract_state(build(config['objective']), genjax.load(path).example)
  checkpoints = Checkpoints(path / 'checkpoints', read_only=True, run_id=config['run_id'])
  saved = checkpoints.restore(10, like, replicated(make_mesh(jax.devices()[:1])), ('ema', 'params'))
  checkpoints.close()
  assert all((x == y).all() for x, y in zip(a, jax.tree.leaves(saved['ema']), strict=True))
  assert all((x == y).all() for x, y in zip(b, jax.tree.leaves(saved['params']), strict=True))
  assert genjax.load(path, step=5).step == 5


@pytest.mark.slow
def test_a_checkpoint_that_training_deletes_meanwhile(runs, tmp_path, monkeypatch):
  path = tmp_path / 'run'
  shutil.copytree(runs('digits_vae'), path)
  steps, deleted = Checkpoints.steps, []

  def steps_then_delete(self):
    found = steps(self)
    if not deleted:
      shutil.rmtree(path / 'checkpoints' / '10')
      deleted.append(10)
    return found

  monkeypatch.setattr(Checkpoints, 'steps', steps_then_delete)
  assert genjax.load(path).step == 5
  assert deleted


@pytest.mark.parametrize(
  ('call', 'message'),
  [
    (lambda run: run.sample(jax.random.key(0), 0), 'n=0 must be an integer of at least 1'),
    (lambda run: run.sample(jax.random.key(0), 2, label=10), 'label=10: this model has the classes 0 to 9'),
    (lambda run: run.sample(jax.random.key(0), 2, label=[1, 2, 3]), 'one for each of the 2 images'),
    (lambda run: run.sample(jax.random.key(0), 2, label='shoes'), "class 'shoes'.*0, 1, 2, "),
    (lambda run: run.sample(jax.random.key(0), 2, label=[1.5, 2]), 'label=1.5 must be the number or the name of a class'),
    (lambda run: run.sample(jax.random.key(0), 2, stepz=3), "option 'stepz'. Did you mean steps.*clip_denoised, .*solver"),
    (lambda run: run.sample(jax.random.key(0), 2, solver='hein'), "solver.*'hein'.* Did you mean heun"),
    (lambda run: run.sample(jax.random.key(0), 2, steps=0), 'steps=0'),
    (lambda run: run.sample(jax.random.key(0), 4, steps=2**40), 'steps=1099511627776'),
    (lambda run: genjax.load(run.path, step=5.0), 'step=5.0 must be an integer'),
    (lambda run: genjax.load(run.path, step=7), 'no checkpoint of step 7; it has 5, 10'),
    (lambda run: genjax.load(run.path / 'samples'), 'is not a run directory: it has no config.json'),
  ],
)
def test_sampling_mistakes(runs, call, message):
  with pytest.raises(UsageError, match=message):
    call(genjax.load(runs('digits_flow')))


@pytest.mark.parametrize('n', [2.0, True, '2', None, [2], np.float32(2), -1, 10**10, 10**400])
def test_invalid_numbers_of_images(runs, n):
  run, gan, key = genjax.load(runs('digits_flow')), genjax.load(runs('digits_gan')), jax.random.key(0)
  calls = {
    'n=': lambda: run.sample(key, n),
    'n= of solve': lambda: run.solve(key, n),
    'frames=': lambda: gan.walk(key, 2, n),
    'stops=': lambda: gan.walk(key, n, 2),
    'n': lambda: gan.mix(key, n),
  }
  for name, call in calls.items():
    with pytest.raises(UsageError, match=re.escape(name.partition(' ')[0])) as error:
      call()
    assert len(str(error.value).splitlines()) == 1
  if not isinstance(n, int) or n < 1:
    with pytest.raises(UsageError, match='batch_size='):
      run.sample(key, 2, batch_size=n)


def test_an_array_of_keys_is_refused(runs):
  run, gan, vae = (genjax.load(runs(f'digits_{name}')) for name in ('flow', 'gan', 'vae'))
  for keys in (jax.random.split(jax.random.key(0), 3), jax.random.key(0)[None]):
    for call in (
      lambda keys: run.sample(keys, 2),
      lambda keys: run.solve(keys, 2),
      lambda keys: gan.walk(keys, 2, 2),
      lambda keys: gan.mix(keys, 2),
      lambda keys: vae.previews(keys, np.zeros((2, 8, 8, 1), np.float32), label=0),
    ):
      with pytest.raises(UsageError, match=rf'key.*\({len(keys)},\)'):
        call(keys)


def test_a_checkpoint_of_another_step_or_run_is_named(runs, tmp_path):
  run = shutil.copytree(runs('digits_vae'), tmp_path / 'run')  # a whole run may be copied
  assert genjax.load(run).step == 10
  (run / 'best').mkdir()
  shutil.copytree(run / 'checkpoints' / '10', run / 'best' / '10')
  assert genjax.load(run, best=True).step == 10
  (run / 'checkpoints' / '10').rename(run / 'checkpoints' / '12')
  with pytest.raises(UsageError, match=r'checkpoints/12 .*params, ema of step 10, not 12'):
    genjax.load(run)
  (run / 'checkpoints' / '12').rename(run / 'checkpoints' / '10')
  shutil.rmtree(run / 'checkpoints' / '10' / 'ema')
  shutil.copytree(run / 'checkpoints' / '5' / 'ema', run / 'checkpoints' / '10' / 'ema')
  with pytest.raises(UsageError, match=r'checkpoints/10 .*ema of step 5, not 10'):
    genjax.load(run)
  config = read_config(run)
  (run / 'config.json').write_text(json.dumps(config | {'run_id': 'of another'}))
  for best in (False, True):
    with pytest.raises(UsageError, match=r'params, .* of another run'):
      genjax.load(run, step=10, best=best)
  del config['run_id']  # a run of an earlier version, whose checkpoints are marked with no run
  (run / 'config.json').write_text(json.dumps(config))
  with pytest.raises(UsageError, match='of another run'):
    genjax.load(run, step=5)


def test_a_damaged_checkpoint_prints_one_line(runs, tmp_path):
  run = shutil.copytree(runs('digits_flow'), tmp_path / 'run')
  for path in (run / 'checkpoints' / '10').rglob('d/*'):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
  program = """
import sys, genjax, sample
for call in (lambda: genjax.load(sys.argv[1]), lambda: sample.main(['--run', sys.argv[1], '--out', 'x.png'])):
  try:
    call()
  except ValueError as error:
    print(error)
"""
  done = subprocess.run([sys.executable, '-c', program, run], cwd=ROOT, env=ENV, capture_output=True, text=True)
  assert done.stderr == ''
  assert [line.partition(' (')[0] for line in done.stdout.splitlines()] == [f'{run}/checkpoints/10 cannot be read'] * 2


def test_sample_py(runs, tmp_path, capsys):
  out, npz = tmp_path / 'new' / 'grid.png', tmp_path / 'x.npz'
  sample.main(
    [
      '--run',
      str(runs('digits_flow')),
      '--n',
      '12',
      '--label',
      'each',
      '--out',
      str(out),
      '--npz',
      str(npz),
      '--steps',
      '2',
      '--solver=euler',
    ]
  )
  assert size(out) == (10 * 66 - 2, 18 + 2 * 66 - 2)
  with np.load(npz) as file:
    assert file['image'].shape == (12, 8, 8, 1)
    assert file['image'].dtype == np.uint8
    assert file['label'].tolist() == [*range(10), 0, 1]
    assert int(file['seed']) == 0
    assert json.loads(str(file['options']))['solver'] == 'euler'
  sample.main(['--run', str(runs('digits_gan')), '--n', '3', '--npz', str(npz)])
  with np.load(npz) as file:
    assert file['label'].shape == (3,)  # drawn, and written down
  for label, columns, rows in (('3', 4, 5), ('0,1,2', 3, 6), ('each', 10, 2)):  # about square, a class stays in its column
    sample.main(['--run', str(runs('digits_gan')), '--n', '18', '--label', label, '--out', str(out)])
    assert size(out) == (columns * 66 - 2, rows * 66 - 2 + (18 if label != '3' else 0))
  sample.main(['--run', str(runs('digits_gan')), '--help'])
  assert '--truncation (1.0)' in capsys.readouterr().out


def test_the_way_to_the_images(runs):
  run, key = genjax.load(runs('digits_flow')), jax.random.key(0)
  found = run.solve(key, 3, label=2, steps=4, solver='ddim')
  assert found.states.shape == found.x0s.shape == (4, 3, 8, 8, 1)
  assert found.evaluations.tolist() == [4, 4, 4]
  assert run.solve(key, 3, label=2, steps=4, solver='ddim', guidance=2.0).evaluations.tolist() == [8, 8, 8]
  np.testing.assert_allclose(found.x, run.sample(key, 3, label=2, steps=4, solver='ddim'), atol=1e-6)
  with pytest.raises(UsageError, match=r'GAN .*one evaluation.* sample\(...\)'):
    genjax.load(runs('digits_gan')).solve(key, 3)
  with pytest.raises(UsageError, match=r'n=0 must be an integer of at least 1'):
    run.solve(key, 0)
  for ask in (run.solve, run.sample):
    with pytest.raises(UsageError, match=r'key=7 .*jax.random.key\(7\)'):
      ask(7, 3)
  with pytest.raises(UsageError, match=r'guidance=nan must be finite: float'):
    run.solve(key, 3, guidance=float('nan'))
  with pytest.raises(UsageError, match=r'guidance_interval=0.2 must be numbers in a tuple, as \(0.2, 3.0\)'):
    run.solve(key, 3, guidance_interval=0.2)


def test_keys_of_other_generators_are_refused(runs):
  path = runs('digits_flow')
  run, options = genjax.load(path), {'label': 1, 'steps': 2, 'solver': 'ddim'}
  right = run.sample(jax.random.key(0), 2, **options)
  for impl in ('rbg', 'unsafe_rbg'):
    with jax.default_prng_impl(impl):
      np.testing.assert_array_equal(run.sample(rng.key(0), 2, **options), right)
      pure = lambda key, n, **_: run.objective.sample(run.variables, jax.random.split(key, n), {})  # noqa: E731
      for ask in (run.sample, run.solve, pure, lambda key, n, **_: rng.image_keys(key, np.arange(n))):
        with pytest.raises(UsageError, match=f'{impl}.*threefry2x32'):
          ask(jax.random.key(0), 2, **options)
  with jax.default_prng_impl('rbg'):  # what a script makes of a seed
    words = ['--run', str(path), '--n', '2', '--label', '1', '--steps', '2', '--solver', 'ddim', '--npz', str(path / 'out.npz')]
    sample.main(words)
  with np.load(path / 'out.npz') as file:
    np.testing.assert_array_equal(file['image'], to_uint8(right))


def test_images_do_not_depend_on_how_jax_is_told_to_divide_threefry():
  draw = 'rng.normal(rng.image_keys(rng.key(0), jnp.arange(2)), (3,)).tolist()'
  words = [sys.executable, '-c', f'import jax.numpy as jnp; from genjax import rng; print({draw})']
  envs = [ENV | {'JAX_THREEFRY_PARTITIONABLE': value} for value in '01']
  found = [subprocess.run(words, cwd=ROOT, env=env, check=True, capture_output=True, text=True).stdout for env in envs]
  assert found[0] == found[1]
  with jax.threefry_partitionable(False), pytest.raises(UsageError, match='jax_threefry_partitionable is off'):
    rng.image_keys(rng.key(0), np.arange(2))


def test_restored_images_have_the_measurement_and_depend_on_their_key_alone(runs):
  run, key = genjax.load(runs('digits_flow')), jax.random.key(0)
  degradation = Degradation((HalfMask('bottom'),))
  photos = jnp.tanh(jax.random.normal(key, (3, 8, 8, 1)))
  state = degradation.draw(rng.image_keys(key, jnp.arange(3)), photos.shape[1:])
  measurement = degradation.apply(state, photos)

  def restore(first, n, **options):
    own = jax.tree.map(lambda x: x[:first], state)
    return run.restore(key, degradation, measurement[:first], state=own, n=n, steps=2, **options)

  images = restore(3, 2, label=[1, 2, 3])
  assert images.shape == (3, 2, 8, 8, 1)
  np.testing.assert_array_equal(images[:, 0, :4], photos[:, :4])
  assert float(jnp.abs(images[:, 0] - images[:, 1]).max()) > 1e-3
  np.testing.assert_allclose(restore(2, 2, label=[1, 2], batch_size=3), images[:2], atol=1e-5)
  np.testing.assert_allclose(restore(3, 1, label=[1, 2, 3])[:, 0], images[:, 0], atol=1e-5)
  before = _restored._cache_size()
  other = run.restore(key, degradation, measurement, state=({'known': jnp.ones((3, 8, 8, 1))},), n=2, steps=2, label=[1, 2, 3])
  np.testing.assert_array_equal(other, jnp.stack([measurement] * 2, axis=1))  # all is known
  assert _restored._cache_size() == before  # another mask compiles nothing


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    ({'label': None}, 'label'),
    ({'method': 'mmp'}, "'mmp'"),
    ({'measurement': jnp.zeros((2, 8, 9, 1))}, 'measurement'),
    ({'measurement': jnp.full((2, 8, 8, 1), jnp.nan)}, 'measurement'),
    ({'state': ()}, 'state has 0 entries'),
    ({'state': ({},)}, 'known'),
    ({'degradation': Degradation((Clip(),)), 'state': None}, 'Clip is not linear'),
    ({'degradation': Degradation((Downsample(2),)), 'state': None}, r'measurement \[2, 8, 8, 1\] must be \[2, 4, 4, 1\]'),
    ({'steps': 0}, 'steps=0'),
  ],
)
def test_restoration_mistakes(runs, change, message):
  known = jnp.ones((2, 8, 8, 1))
  arguments = {
    'degradation': Degradation((HalfMask(),)),
    'measurement': known,
    'state': ({'known': known},),
    'label': 1,
  } | change
  with pytest.raises(UsageError, match=message):
    genjax.load(runs('digits_flow')).restore(jax.random.key(0), **arguments)
  with pytest.raises(UsageError, match='GAN has no denoiser'):
    genjax.load(runs('digits_gan')).restore(jax.random.key(0), Degradation(), known)


def test_options_on_the_command_line():
  known = dataclasses.asdict(Sampler())
  words = ['--steps', '7', '--guidance=1.5', '--guidance_interval', '0.2,3', '--solver', 'ddim', '--clip_denoised', 'True']
  expected = {'steps': 7, 'guidance': 1.5, 'guidance_interval': (0.2, 3), 'solver': 'ddim', 'clip_denoised': True}
  assert parse_options(words, known) == expected


def test_options_as_a_card_holds_them(runs):
  run = genjax.load(runs('digits_flow'))
  options = {'guidance': 2.0, 'guidance_interval': (0.2, 3.0), 'steps': 2}
  images = [run.sample(jax.random.key(0), 2, label=3, **o) for o in (options, json.loads(json.dumps(options)))]
  assert (images[0] == images[1]).all()


def test_a_guided_run_has_the_options_of_the_run(runs):
  main = genjax.load(runs('digits_flow'))
  assert main.guided_by(main).options == main.options
  assert main.options['timesteps'] == main.objective.path.timesteps


@pytest.mark.slow
def test_a_weaker_run_guides(runs, tmp_path):
  main = genjax.load(runs('digits_flow'))
  params = jax.tree.map(lambda x: 0.5 * x + 0.01, main.variables.params)
  weak = dataclasses.replace(main, variables=Variables(params, {}))
  key, options = jax.random.key(0), {'label': 3, 'steps': 3}
  guided = main.guided_by(weak)
  draw = lambda run, guidance: run.sample(key, 2, guidance=guidance, **options)  # noqa: E731
  np.testing.assert_allclose(draw(guided, 0.0), draw(weak, 1.0), atol=1e-5)
  with pytest.raises(UsageError, match=r'guidance=1 ignores the guide'):
    guided.sample(key, 2, **options)
  assert float(jnp.abs(draw(guided, 2.0) - draw(main, 2.0)).max()) > 1e-3  # not away from no label
  np.testing.assert_allclose(draw(main.guided_by(main), 2.0), draw(main, 1.0), atol=1e-5)
  with pytest.raises(UsageError, match=r'digits_vae.* cannot guide .*digits_flow.*: .* is of VAE, not a diffusion model'):
    main.guided_by(genjax.load(runs('digits_vae')))
  other = dataclasses.replace(weak, objective=dataclasses.replace(weak.objective, conditioner=ClassLabel(3)))
  with pytest.raises(UsageError, match=r'its conditioner is ClassLabel\(classes=3\), not ClassLabel\(classes=10\)'):
    main.guided_by(other)
  path = str(runs('digits_flow'))
  words = ['--guidance', '2', '--n', '2', '--npz', str(tmp_path / 'x.npz'), '--steps', '3']
  sample.main(['--run', path, '--guide', path, *words])
  with np.load(tmp_path / 'x.npz') as file:
    assert json.loads(str(file['options']))['guide'] == path


@pytest.mark.parametrize(
  ('words', 'message'),
  [
    (['--stepz', '2'], r"'--stepz'.*--step or --steps.*--clip_denoised.*--solver"),
    (['--steps', 'two'], '--steps=two must be an integer'),
    (['--guidance_interval', 'low,3'], '--guidance_interval=low,3 must be numbers, such as 0.2,3'),
    (['--steps'], '--steps needs a value'),
    (['--label', 'cat'], "class 'cat'.*0, 1, 2, "),
    (['--label', '3,cat'], "class 'cat'.*0, 1, 2, "),
    (['--label', '11'], '^label=11: this model has the classes 0 to 9.$'),
    (['--label', '3,12'], '^label=12: this model has the classes 0 to 9.$'),
    (['--label', '99999999999999999999'], '^label=99999999999999999999: this model has the classes 0 to 9.$'),
    (['--n', 'many'], "argument --n: invalid int value: 'many'; see --help"),
    (['--n', '0'], '--n=0 must be an integer of at least 1'),
    (['--n', '10000000000'], '--n=10000000000: .*5,120 GB'),
    (['--mix', '1', '--n', '100000'], r'n\^2=10000000000: '),
    (['--steps', '1000000000000'], 'steps=1000000000000'),
    (['--npz', '/proc/nobody/x.npz'], '/proc/nobody cannot be written .*--npz'),
    (['--grid', 'karras'], '--grid.*timesteps now'),
    (['--seed', '-1'], '--seed -1 must be from 0'),
    (['--out', 'grid.bmp'], r'grid.bmp.*\.png'),
  ],
)
def test_sample_py_mistakes(runs, tmp_path, words, message):
  with pytest.raises(UsageError, match=message):
    sample.main(['--run', str(runs('digits_flow')), '--out', str(tmp_path / 'x.png'), *words])


def test_values_that_may_vary_compile_nothing_and_are_checked(runs):
  key, run = jax.random.key(0), genjax.load(runs('digits_flow'))
  options = {'steps': 3, 'guidance': 1.5, 'guidance_interval': (0.1, 9.0)}
  first = run.sample(key, 2, label=1, **options)
  before = _compiled._cache_size()
  for changed in ({'guidance_interval': (1.0, 5.0)}, {'guidance': jnp.float32(2.5)}, {'guidance': np.float64(3)}):
    assert np.abs(run.sample(key, 2, label=1, **options | changed) - first).max() > 1e-4
  assert _compiled._cache_size() == before
  for wrong in ({'guidance_interval': (5.0, 0.2)}, {'rho': 5.0, 'timesteps': 'uniform'}, {'guidance': jnp.ones(2)}):
    with pytest.raises(UsageError, match=next(iter(wrong))):
      run.sample(key, 2, label=1, **options | wrong)
  gan = genjax.load(runs('digits_gan'))
  first = gan.walk(key, 2, 3, label=1, truncation=0.9)
  before = _interpolated._cache_size()
  assert np.abs(gan.walk(key, 2, 3, label=1, truncation=0.5) - first).max() > 1e-4
  assert _interpolated._cache_size() == before
  for name, wrong in (('digits_gan', {'truncation': -1.0}), ('digits_vae', {'temperature': float('inf')})):
    with pytest.raises(UsageError, match=next(iter(wrong))):
      genjax.load(runs(name)).sample(key, 2, **wrong)


def test_an_unknown_condition_of_the_pure_function_is_refused(runs):
  run = genjax.load(runs('digits_vae'))
  keys = rng.image_keys(rng.key(0), jnp.arange(2))
  with pytest.raises(UsageError, match=r"'labels'.*label"):
    run.objective.sample(run.variables, keys, {'labels': jnp.zeros(2, jnp.int32)})


def test_samples_of_other_options_do_not_overwrite_each_other(runs, capsys):
  path = runs('digits_gan')
  for more in (['--label', '3'], ['--label', 'each', '--truncation', '0.7'], ['--no_ema'], ['--walk', '2']):
    sample.main(['--run', str(path), '--n', '20', *more])
  assert len(set(capsys.readouterr().out.splitlines())) == 4


def test_a_folder_of_images_has_only_these(runs, tmp_path):
  words = ['--run', str(runs('digits_gan')), '--images', str(tmp_path / 'x')]
  for n in (12, 12, 20):
    sample.main([*words, '--n', str(n)])
  assert len(list((tmp_path / 'x').iterdir())) == 20
  with pytest.raises(UsageError, match=r'--images.*12.png'):
    sample.main([*words, '--n', '12'])
  with pytest.raises(UsageError, match='--images'):
    sample.main([*words[:-1], ''])


def test_without_a_place_the_grid_is_written_into_the_run(runs, capsys):
  path = runs('digits_gan')
  sample.main(['--run', str(path), '--n', '4', '--seed', '3'])
  written = path / 'sampled' / 'step_00000010_seed_3_n_4.png'
  assert capsys.readouterr().out.strip() == str(written)
  assert written.exists()


@pytest.mark.parametrize('suffix', ['.png', '.jpg', '.webp'])
def test_grids_are_encoded_by_their_suffix(runs, tmp_path, suffix):
  grids = [tmp_path / f'a{end}' for end in ('.png', suffix)]
  for grid in grids:
    sample.main(['--run', str(runs('digits_gan')), '--n', '4', '--out', str(grid)])
  pixels = []
  for grid in grids:
    with Image.open(grid) as image:
      pixels.append(np.asarray(image.convert('L'), np.float64))
  right, found = pixels
  assert image.format == {'.png': 'PNG', '.jpg': 'JPEG', '.webp': 'WEBP'}[suffix]
  assert np.abs(right - found).max() <= (0 if suffix != '.jpg' else 12)


def test_one_file_is_written_for_each_sample(runs, tmp_path, capsys):
  path, folder = runs('digits_gan'), tmp_path / 'images'
  sample.main(['--run', str(path), '--n', '11', '--images', str(folder)])
  assert sorted(file.name for file in folder.iterdir()) == [f'{i:02}.png' for i in range(11)]
  images = to_uint8(genjax.load(path).sample(rng.key(0), 11))
  for i, file in enumerate(sorted(folder.iterdir())):
    np.testing.assert_array_equal(np.asarray(Image.open(file)), images[i, ..., 0])


def test_sample_py_says_what_is_missing():
  with pytest.raises(UsageError, match='--run is missing'):
    sample.main(['--out', 'x.png'])
  done = subprocess.run([sys.executable, 'sample.py', '--run', 'x', '--out', 'x.png'], cwd=ROOT, capture_output=True, text=True)
  assert done.returncode == 1
  assert done.stderr == 'error: x is not a run directory: it has no config.json.\n'


@pytest.mark.parametrize(
  ('text', 'message'),
  [
    ('{', 'JSON'),
    ('[]', 'lacks one of the sections'),
    ('{"data": {}, "train": {}, "optim": {}}', 'lacks one of the sections'),
    ('{"data": {}, "train": {}, "optim": {}, "objective": {"cls": "os.system"}}', "'os.system'"),
    ('{"data": {}, "train": {}, "optim": {}, "objective": {}}', 'is not an objective'),
  ],
)
def test_a_config_that_genjax_did_not_write(tmp_path, text, message):
  (tmp_path / 'config.json').write_text(text)
  with pytest.raises(UsageError, match=message):
    genjax.load(tmp_path)


def test_a_guide_that_would_lead_nowhere_is_refused():
  with pytest.raises(UsageError, match=r'--guide runs/w has no effect with --guidance 1: use --guidance 2'):
    check_guide('runs/w', {'guidance': 1.0})
  check_guide('runs/w', {'guidance': 2.0})
  check_guide(None, {'guidance': 1.0})
