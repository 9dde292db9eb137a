"""Damaged checkpoints are detected and reported."""

import asyncio
import os
import shutil
import subprocess
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genjax import checkpoint
from genjax.checkpoint import UNCERTAIN, Checkpoints, DamagedCheckpoint, checksums, offsets, origin_error
from genjax.config import section_defaults
from genjax.errors import UsageError
from genjax.files import write_whole
from genjax.parallel import make_mesh, replicated
from genjax.step import TrainState
from genjax.workdir import open_workdir
from tests.conftest import ROOT, same_bits
from tests.programs import ENV, command, train

SHARDING = replicated(make_mesh(jax.devices()[:1]))


def state_of(step):
  array = lambda seed, *shape: jax.random.normal(jax.random.key(10 * step + seed), shape)  # noqa: E731
  params = {'model': {'kernel': array(0, 40, 30), 'bias': array(1, 7).astype(jnp.bfloat16)}}
  return TrainState(jnp.asarray(step, jnp.int32), params, {'seen': jnp.arange(9) > 4}, {'count': jnp.arange(5)}, params)


def save(folder, *steps, **options):
  checkpoints = Checkpoints(folder / 'checkpoints', **options)
  for step in steps:
    checkpoints.save(jax.device_put(state_of(step), SHARDING))
  checkpoints.close()


def restore_newest(folder, run_id='', **options):
  checkpoints = Checkpoints(folder / 'checkpoints', run_id=run_id)
  try:
    return checkpoints.restore_newest(jax.eval_shape(lambda: state_of(1)), SHARDING, **options)
  finally:
    checkpoints.close()


def data_files(folder):
  return sorted(p for p in folder.rglob('*') if p.is_file() and p.parent.name == 'd')


def test_a_checksum_sees_every_flipped_bit_and_no_layout():
  x = np.arange(64, dtype=np.float32).reshape(4, 16)
  whole = checksums({'x': jnp.asarray(x)})
  assert (checksums({'x': jax.device_put(x, jax.NamedSharding(make_mesh(), jax.P(None, 'data')))}) == whole).all()
  for place in range(64):
    for bit in (0, 7, 22, 23, 30, 31):
      words = x.reshape(-1).view(np.uint32).copy()
      words[place] ^= np.uint32(1 << bit)
      assert (checksums({'x': jnp.asarray(words.view(np.float32).reshape(4, 16))}) != whole).all()
  swapped = x.copy()
  swapped[0, 0], swapped[3, 3] = x[3, 3], x[0, 0]
  assert (checksums({'x': jnp.asarray(swapped)}) != whole).all()


@pytest.mark.parametrize('damage', ['truncated', 'emptied', 'no arrays', 'no manifest', 'flipped'])
def test_a_damaged_checkpoint_is_named_and_the_one_before_is_used(tmp_path, capsys, damage):
  save(tmp_path, 1, 2)
  newest = tmp_path / 'checkpoints' / '2'
  data = max(data_files(newest), key=lambda p: p.stat().st_size)
  if damage == 'no arrays':
    for path in data_files(newest):
      path.unlink()
  elif damage == 'no manifest':
    for path in newest.rglob('manifest.ocdbt'):
      path.unlink()
  else:
    content = bytearray(data.read_bytes())
    content[len(content) // 2] ^= 4
    data.write_bytes({'truncated': bytes(content[: len(content) // 2]), 'emptied': b'', 'flipped': bytes(content)}[damage])
  with pytest.raises(UsageError, match=r'checkpoints/2 .*\n.*--strict'):
    restore_newest(tmp_path, strict=True)
  assert same_bits(restore_newest(tmp_path), state_of(1))
  assert 'checkpoints/2' in capsys.readouterr().out
  assert (tmp_path / 'damaged' / '2').is_dir()  # set aside, not thrown away
  save(tmp_path, 2)
  assert same_bits(restore_newest(tmp_path), state_of(2))


def test_no_flipped_bit_is_restored(tmp_path):
  save(tmp_path, 1, run_id='a')
  checkpoints = Checkpoints(tmp_path / 'checkpoints', read_only=True, run_id='a')
  like, actual = jax.eval_shape(lambda: state_of(1)), 0
  random = np.random.default_rng(0)
  for path in data_files(tmp_path):
    whole = path.read_bytes()
    for place in random.integers(0, len(whole), 3):
      content = bytearray(whole)
      content[place] ^= 1 << int(random.integers(8))
      path.write_bytes(bytes(content))
      try:
        assert same_bits(TrainState(**checkpoints.restore(1, like, SHARDING)), state_of(1)), (path, place)
      except DamagedCheckpoint:
        actual += 1
    path.write_bytes(whole)
  checkpoints.close()
  assert actual > 5


def test_a_checkpoint_does_not_depend_on_the_kind_of_device(tmp_path):
  # So one that a GPU wrote opens on CPU (tests/test_gpu_checkpoint.py): its shardings name places in a mesh and no platform.
  save(tmp_path, 1)
  kinds = {word.lower().encode() for d in jax.devices() for word in (d.platform, d.device_kind, str(d))}
  for path in tmp_path.rglob('*'):
    assert not (path.is_file() and any(kind in path.read_bytes().lower() for kind in kinds)), path


def test_a_file_where_damaged_checkpoints_go(tmp_path):
  save(tmp_path, 1, 2)
  data_files(tmp_path / 'checkpoints' / '2')[0].unlink()
  (tmp_path / 'damaged').write_text('mine')
  with pytest.raises(UsageError, match=r'damaged is a file.*: remove'):
    restore_newest(tmp_path)


def test_when_all_are_damaged_nothing_starts_from_scratch(tmp_path):
  save(tmp_path, 1, 2)
  for path in data_files(tmp_path):
    path.write_bytes(b'')
  with pytest.raises(UsageError, match=r'(?s)checkpoints/1 .*restore .*--workdir'):
    restore_newest(tmp_path)


def test_another_model_is_not_damage(tmp_path):
  save(tmp_path, 1, 2)
  checkpoints = Checkpoints(tmp_path / 'checkpoints')
  like = jax.eval_shape(lambda: state_of(1))
  wider = like.replace(params={'model': {**like.params['model'], 'bias': jax.ShapeDtypeStruct((8,), jnp.bfloat16)}})
  with pytest.raises(UsageError, match=r'params has 2 arrays of 1,207 .* 2 arrays of 1,208 '):
    checkpoints.restore_newest(wider, SHARDING)
  model = dict(like.params['model'])
  renamed = like.replace(params={'model': {'offset': model.pop('bias'), **model}})
  with pytest.raises(UsageError, match=r'2 arrays of 1,207 .* model/bias\.'):
    checkpoints.restore_newest(renamed, SHARDING)
  assert checkpoints.steps() == [1, 2]  # none was set aside
  checkpoints.close()


@pytest.mark.parametrize(
  'lost', ['folder', *(pytest.param(x, marks=pytest.mark.slow) for x in ('a file in its place', 'all steps', 'metrics too'))]
)
def test_lost_checkpoints_are_not_a_new_run(tmp_path, lost):
  more = ['--config.train.steps=6', '--config.train.checkpoint_every=3']
  train('digits_vae', tmp_path / 'run', *more)
  assert (tmp_path / 'run' / 'saved').exists()
  folder = tmp_path / 'run' / 'checkpoints'
  for path in folder.iterdir():
    shutil.rmtree(path) if path.is_dir() else path.unlink()
  if lost == 'folder':
    folder.rmdir()
  if lost == 'metrics too':
    (tmp_path / 'run' / 'metrics.jsonl').unlink()
  if lost == 'a file in its place':
    (folder / '6').write_text('')
  text = train('digits_vae', tmp_path / 'run', *more, status=1)
  assert text.count('\n') == 1
  assert text.startswith(f'error: {tmp_path}/run ')
  assert f'restore {tmp_path}/run/checkpoints' in text
  assert '--workdir' in text


def test_a_run_killed_before_its_first_checkpoint_begins_again(tmp_path):
  config = section_defaults() | {'objective': {}, 'optim': {}}
  config['train'] |= {'steps': 5}
  os.close(open_workdir(tmp_path, config))
  (tmp_path / 'metrics.jsonl').write_text('{"step": 5, "kimg": 1}\n')
  os.close(open_workdir(tmp_path, config))


def test_a_checkpoint_under_the_number_of_another_step(tmp_path, capsys):
  save(tmp_path, 1, 2)
  (tmp_path / 'checkpoints' / '2').rename(tmp_path / 'checkpoints' / '7')
  assert same_bits(restore_newest(tmp_path), state_of(1))
  text = capsys.readouterr().out
  assert 'checkpoints/7 ' in text
  assert 'params, ema of step 2, not 7' in text


@pytest.mark.parametrize('arrays', [1, 2, 3, 30])
def test_arrays_of_another_step_or_run_are_distinguished_from_damage(arrays):
  actual = np.random.default_rng(0).integers(0, 2**32, arrays, np.uint32)
  error = lambda saved: origin_error(saved, actual, 'a', 7)  # noqa: E731
  assert error(actual + offsets('a', 7, arrays)) == ''
  assert error(actual) == ''  # of an earlier version
  assert error(actual + offsets('b', 7, arrays)) == ('of another run' if arrays > 2 else UNCERTAIN)
  step = error(actual + offsets('a', 6, arrays))
  assert step == ('of step 6, not 7' if arrays > 1 else UNCERTAIN)
  flipped = actual + offsets('a', 7, arrays)
  flipped[arrays // 2] ^= 4
  assert error(flipped) == ('changed since saving (checksums differ)' if arrays > 2 else UNCERTAIN)
  flipped = actual.copy()  # of an earlier version
  flipped[arrays // 2] ^= 4
  assert error(flipped)


def test_a_field_of_another_step_and_a_checkpoint_of_another_run(tmp_path, capsys):
  for run, steps in (('a', (1, 2)), ('b', (3,))):
    save(tmp_path / run, *steps, run_id=run)
  shutil.copytree(tmp_path / 'b' / 'checkpoints' / '3', tmp_path / 'a' / 'checkpoints' / '3')
  shutil.rmtree(tmp_path / 'a' / 'checkpoints' / '2' / 'params')
  shutil.copytree(tmp_path / 'a' / 'checkpoints' / '1' / 'params', tmp_path / 'a' / 'checkpoints' / '2' / 'params')
  assert same_bits(restore_newest(tmp_path / 'a', 'a'), state_of(1))
  text = capsys.readouterr().out
  assert 'a/checkpoints/3 ' in text
  assert 'a/checkpoints/2 ' in text
  assert 'params of step 1, not 2' in text
  assert same_bits(restore_newest(tmp_path / 'b', 'b'), state_of(3))


def test_a_checkpoint_of_an_earlier_version_opens(tmp_path, monkeypatch):
  with monkeypatch.context() as patch:
    patch.setattr(checkpoint, 'offsets', lambda run_id, step, n: np.zeros(n, np.uint32))
    save(tmp_path, 1)
  assert same_bits(restore_newest(tmp_path, 'a'), state_of(1))
  save(tmp_path, 2, run_id='a')
  assert same_bits(restore_newest(tmp_path, 'a'), state_of(2))


def test_only_messages_of_tensorstore_are_silenced(monkeypatch, caplog):
  shown = []
  monkeypatch.setattr(sys, 'unraisablehook', lambda what: shown.append(what.exc_value))
  for _ in range(2):
    checkpoint.silence_tensorstore()  # once, however often
  loop = asyncio.new_event_loop()
  failed = loop.create_future()
  loop.close()

  def unraisable(error):
    sys.unraisablehook(types.SimpleNamespace(exc_value=error, exc_traceback=error.__traceback__))

  for call in (lambda: loop.call_soon_threadsafe(print), lambda: 1 / 0):
    try:
      call()
    except Exception as error:
      error.__traceback__ = error.__traceback__.tb_next.tb_next or error.__traceback__.tb_next  # as from a thread of C++
      unraisable(error)
  unraisable(Exception('Encountered error while reading array index. See full TensorStore details: ...'))
  for file in ('/lib/orbax/checkpoint/arrays.py', '/mine/arrays.py'):
    names = {}
    exec(compile('async def read(): pass', file, 'exec'), names)
    coroutine = names['read']()
    sys.unraisablehook(types.SimpleNamespace(exc_value=KeyError(file), exc_traceback=None, object=coroutine))
    coroutine.close()
  assert [type(error) for error in shown] == [ZeroDivisionError, KeyError]
  assert shown[1].args == ('/mine/arrays.py',)
  for text in ('OUT_OF_RANGE: ... [tensorstore_spec=...]', 'mine'):
    loop.default_exception_handler(
      {'message': 'Future exception was never retrieved', 'exception': ValueError(text), 'future': failed}
    )
  assert [str(record.exc_info[1]) for record in caplog.records] == ['mine']


def test_a_link_in_the_place_of_a_file_is_not_followed(tmp_path):
  (tmp_path / 'precious').write_text('mine')
  (tmp_path / 'run').mkdir()
  (tmp_path / 'run' / 'lock').symlink_to(tmp_path / 'precious')
  config = section_defaults() | {'objective': {}, 'optim': {}}
  config['train'] |= {'steps': 5}
  with pytest.raises(UsageError, match='run cannot be written to'):
    open_workdir(tmp_path / 'run', config)
  for name in ('x.json', 'y.png'):
    (tmp_path / name).symlink_to(tmp_path / 'precious')
    write_whole(tmp_path / name, 'new')
    assert (tmp_path / name).read_text() == 'new'
  assert (tmp_path / 'precious').read_text() == 'mine'


def test_a_halted_state_is_not_saved(tmp_path):
  checkpoints = Checkpoints(tmp_path)
  checkpoints.save(jax.device_put(state_of(1).replace(step=jnp.asarray(~1, jnp.int32)), SHARDING))
  assert checkpoints.steps() == []
  checkpoints.close()


def test_the_newest_and_every_nth_are_kept(tmp_path):
  save(tmp_path, 1, 2, 3, keep=2, keep_every=3)
  save(tmp_path, 4, 5, 6, 7, 8, keep=2, keep_every=3)  # another session
  checkpoints = Checkpoints(tmp_path / 'checkpoints', read_only=True)
  assert checkpoints.steps() == [3, 6, 7, 8]
  checkpoints.close()


@pytest.mark.slow
def test_a_disk_that_is_full_is_said_and_the_last_good_checkpoint_stays(tmp_path):
  # A limit on the size of files stands in for the disk; wide layers, so that only a checkpoint exceeds it.
  wide = ['--config.objective.encoder.width=200', '--config.train.checkpoint_every=5']
  train('digits_vae', tmp_path / 'run', *wide, '--config.train.steps=5')
  limit = ['bash', '-c', 'ulimit -f 100 && exec "$@"', 'limited']  # KiB; not by preexec_fn, which would fork JAX's threads
  words = limit + command('digits_vae', tmp_path / 'run', *wide, '--config.train.steps=10')
  env = ENV | {'JAX_ENABLE_COMPILATION_CACHE': 'false'}  # whose files must not be cut short
  done = subprocess.run(words, cwd=ROOT, env=env, capture_output=True, text=True, timeout=300)
  assert done.returncode == 1, done.stdout + done.stderr
  error, remedy = done.stderr.strip().splitlines()
  assert error.startswith('error: ')
  assert 'a checkpoint could not be written (' in error
  assert error.endswith(' step 5.')
  assert 'disk space' in remedy
  assert 'resuming from step 5' in train('digits_vae', tmp_path / 'run', *wide, '--config.train.steps=10')


def test_two_processes_on_one_workdir(tmp_path):
  config = section_defaults() | {'objective': {}, 'optim': {}}
  config['train'] |= {'steps': 5}
  held = open_workdir(tmp_path / 'run', config)
  text = train('digits_vae', tmp_path / 'run', '--config.train.steps=5', status=1)
  assert f'run is in use by process {os.getpid()}' in text
  os.close(held)
