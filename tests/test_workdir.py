"""Whose a run directory is, and which config it goes on with."""

import errno
import importlib
import json
import os
import resource
import shutil

import numpy as np
import pytest
from PIL import Image

import evaluate
import export
import genjax
import sample
import sweep
import train
from genjax import convert, runs
from genjax.config import refuse_another_config, section_defaults
from genjax.data import contents
from genjax.data.sources import folder
from genjax.data.sources.open import open_data
from genjax.environment import write_environment
from genjax.errors import UsageError
from genjax.files import NotWritten, write_whole, writing
from genjax.metrics import card_files
from genjax.schema import SCHEMA
from genjax.workdir import keep_background, open_workdir, read_config, run_id_of
from tests.conftest import CONFIGS, config_of, noise


def test_a_workdir_of_another_config_is_refused_with_the_difference(tmp_path, capsys):
  config = section_defaults() | {'objective': {'beta': 1.0}, 'optim': {'model': {'steps': 5}}}
  config['train'] |= {'steps': 5}
  longer = config | {'train': config['train'] | {'steps': 9}, 'optim': {'model': {'steps': 9}}}
  other = config | {'train': config['train'] | {'steps': 9, 'seed': 1}, 'objective': {'beta': 2.0}}
  os.close(open_workdir(tmp_path / 'run', config))
  os.close(open_workdir(tmp_path / 'run', other))  # nothing is trained yet
  held = open_workdir(tmp_path / 'run', config)
  with pytest.raises(UsageError, match=rf'run is in use by process {os.getpid()} on .*: wait for it'):
    open_workdir(tmp_path / 'run', config)
  os.close(held)
  (tmp_path / 'run' / 'checkpoints' / '5').mkdir(parents=True)
  with pytest.raises(UsageError, match=r'belongs to another config \(objective.beta: 1.0 -> 2.0; train.seed: 0 -> 1\)'):
    open_workdir(tmp_path / 'run', other)
  with pytest.raises(UsageError, match=r'belongs to another config \(optim.model.steps: 5 -> 9\)'):
    open_workdir(tmp_path / 'run', longer)
  run_id = read_config(tmp_path / 'run')['run_id']
  os.close(open_workdir(tmp_path / 'run', longer, config_at={5: config}.get))
  assert 'optim.model.steps changes from 5 to 9 with train.steps' in capsys.readouterr().out
  assert read_config(tmp_path / 'run') == longer | {'run_id': run_id, 'schema': SCHEMA}
  for step in ('5', '9'):  # of the longer run, which has gone far enough for the shorter one, and is finished
    (tmp_path / 'run' / 'checkpoints' / step).mkdir(exist_ok=True)
    os.close(open_workdir(tmp_path / 'run', config, config_at={9: longer}.get))
    assert 'changes' not in capsys.readouterr().out
    assert read_config(tmp_path / 'run') == longer | {'run_id': run_id, 'schema': SCHEMA}
  (tmp_path / 'other').mkdir()
  (tmp_path / 'other' / 'thesis.tex').write_text('mine')
  with pytest.raises(UsageError, match='is not empty and not a run directory'):
    open_workdir(tmp_path / 'other', {'objective': {}})
  assert [p.name for p in (tmp_path / 'other').iterdir()] == ['thesis.tex']


def test_odd_files_in_a_run_directory(tmp_path):
  config = json.loads(json.dumps(config_of('digits_flow')))
  (tmp_path / 'config.json').write_text(json.dumps(config))
  (tmp_path / 'checkpoints' / '²').mkdir(parents=True)  # a digit, and no number
  os.close(open_workdir(tmp_path, config))
  (tmp_path / 'environment.json').write_text('{"earlier": null}')
  write_environment(tmp_path)
  assert json.loads((tmp_path / 'environment.json').read_text())['earlier'] == []


def test_an_option_that_came_later_counts_as_its_default(tmp_path):
  config = json.loads(json.dumps(config_of('digits_flow')))
  older = json.loads(json.dumps(config))
  for section, option in (('train', 'accumulate'), ('data', 'flip')):
    del older[section][option]
  for option in ('patch', 'remat'):
    del older['objective']['network'][option]
  os.close(open_workdir(tmp_path, older))
  (tmp_path / 'checkpoints' / '5').mkdir(parents=True)
  other = json.loads(json.dumps(config))
  other['objective']['network']['patch'] = 2
  with pytest.raises(UsageError, match=r'belongs to another config \(objective.network.patch: 1 -> 2\)'):
    open_workdir(tmp_path, other)
  config['objective']['network']['remat'] = True  # changes how, not what
  os.close(open_workdir(tmp_path, config))
  assert read_config(tmp_path) == config | {'schema': SCHEMA, 'run_id': read_config(tmp_path)['run_id']}


def images_in(path, n=24, seed=0, classes=('cat', 'dog')):
  """A folder of n noisy images, some of another size than others as files, in sub-folders."""
  for i, image in enumerate(noise(n, seed=seed)):
    (path / classes[i % len(classes)]).mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).resize((8 + i % 5, 8 + i % 5)).save(path / classes[i % len(classes)] / f'{i:02}.png')
  return path


def started(run, steps=9, reached=5, **data):
  """What train.py does with a run directory before it trains: opens the data, and the run. A checkpoint is there then."""
  config = section_defaults() | {'objective': {}, 'optim': {}}
  config['train'] = config['train'] | {'steps': steps}
  config['data'] = config['data'] | {'resolution': 8} | {name: str(value) for name, value in data.items() if name == 'name'}
  config['data'] |= {name: value for name, value in data.items() if name != 'name'}
  source = open_data(**contents.options(config['data']))
  config['data'] |= contents.recorded(source)
  os.close(open_workdir(run, config))
  (run / 'checkpoints' / str(reached)).mkdir(parents=True, exist_ok=True)
  return source


def test_equal_data_may_move(tmp_path, capsys):
  run, there = tmp_path / 'run', tmp_path / 'elsewhere'
  started(run, name=images_in(tmp_path / 'images'))
  kept = read_config(run)['data']
  assert kept['classes'] == ['cat', 'dog']
  capsys.readouterr()
  started(run, name=tmp_path / 'images')
  assert capsys.readouterr().out == ''
  (tmp_path / 'images').rename(there)
  started(run, name=there)
  assert str(there) in capsys.readouterr().out
  assert read_config(run)['data'] == kept | {'name': str(there)}
  there.rename(tmp_path / 'images')
  started(run, steps=5, name=tmp_path / 'images')  # a run that is done, whose steps are not those of before
  assert read_config(run)['data'] == kept
  assert read_config(run)['train']['steps'] == 9


def test_different_data_are_refused_with_the_difference(tmp_path):
  run, images = tmp_path / 'run', images_in(tmp_path / 'images')
  started(run, name=images)
  before = read_config(run)
  (images / 'cat').rename(images / 'eel')  # labels 0 and 1 are other classes now
  with pytest.raises(UsageError, match=r'run: .*cat, dog.* dog, eel'):
    started(run, name=images)
  (images / 'eel').rename(images / 'cat')
  started(run, name=images)
  shutil.rmtree(images)
  images_in(images, seed=1)  # as many, by the same names
  with pytest.raises(UsageError, match=rf'run: {images} .*24 then, 24 now'):
    started(run, name=images)
  with pytest.raises(UsageError, match=r'24 then, 60 now'):
    started(run, name=images_in(tmp_path / 'more', 60, seed=2))
  assert read_config(run) == before


def test_files_of_equal_size_are_distinguished_by_content(tmp_path):
  for seed in (0, 1):
    for i, image in enumerate(noise(6, seed=seed)):
      (tmp_path / str(seed)).mkdir(exist_ok=True)
      Image.fromarray(image).save(tmp_path / str(seed) / f'{i}.bmp')
  started(tmp_path / 'run', name=tmp_path / '0')
  with pytest.raises(UsageError, match='6 then, 6 now'):
    started(tmp_path / 'run', name=tmp_path / '1')


def test_a_few_of_many_files_may_change(tmp_path, capsys):
  images = images_in(tmp_path / 'images', 300)
  files = sorted(images.rglob('*.png'))
  started(tmp_path / 'run', name=images)
  for path in files[100:103]:
    path.write_bytes(files[0].read_bytes())  # repaired
  files[200].unlink()
  started(tmp_path / 'run', name=images)
  assert '300 images and has 299' in capsys.readouterr().out
  for path in files[:60]:
    path.write_bytes(files[-1].read_bytes())
  with pytest.raises(UsageError, match='299 then, 299 now'):
    started(tmp_path / 'run', name=images)


@pytest.mark.parametrize('remedy', ['remove', 'repair', 'skip', 'channels'])
def test_remedies_for_bad_images_are_accepted(tmp_path, capsys, remedy):
  run, images = tmp_path / 'run', images_in(tmp_path / 'images')
  good = (images / 'dog' / '13.png').read_bytes()
  (images / 'dog' / '13.png').write_bytes(b'')
  started(run, name=images, memory_gib=0.0)
  capsys.readouterr()
  if remedy == 'remove':
    (images / 'dog' / '13.png').unlink()
  if remedy == 'repair':
    (images / 'dog' / '13.png').write_bytes(good)
  more = {'skip': {'skip': True}, 'channels': {'channels': 3}}.get(remedy, {})
  started(run, name=images, memory_gib=0.0, **more)
  text = {'remove': '24 images and has 23', 'repair': '(1 of the 24 ', 'skip': '24 images and has 23', 'channels': ''}[remedy]
  assert text in capsys.readouterr().out


def test_the_hash_depends_only_on_the_content(tmp_path):
  images = images_in(tmp_path / 'images')
  actual = [open_data(str(images), 8, **more) for more in ({}, {'memory_gib': 0.0}, {'channels': 1}, {'skip': True})]
  assert len({source.contents() for source in actual}) == 1
  np.savez(tmp_path / 'a.npz', image=noise(), label=np.arange(20) % 4)
  np.savez_compressed(tmp_path / 'b.npz', image=noise(), label=(np.arange(20) % 4).astype(np.uint8))
  np.savez(tmp_path / 'c.npz', image=noise(), label=(np.arange(20) + 1) % 4)
  a, b, c = (open_data(str(tmp_path / f'{name}.npz'), 8) for name in 'abc')
  assert a.contents() == b.contents()  # the same images
  assert a.contents() != c.contents()  # with other labels
  started(tmp_path / 'run', name=tmp_path / 'a.npz')
  started(tmp_path / 'run', name=tmp_path / 'b.npz')
  with pytest.raises(UsageError, match='20 then, 20 now'):
    started(tmp_path / 'run', name=tmp_path / 'c.npz')
  assert open_data('digits', 8).contents() == open_data('digits', 16).contents()
  assert open_data('digits', 8).contents() != open_data('digits', 8, 'test').contents()


def test_a_large_folder_is_hashed_by_names_sizes_and_a_sample(tmp_path, monkeypatch):
  images = images_in(tmp_path / 'images', 40)
  monkeypatch.setattr(contents, 'SMALL', 0)
  monkeypatch.setattr(contents, 'SAMPLE', 8)
  before = open_data(str(images), 8).contents()
  assert open_data(str(images), 8).contents() == before
  path = sorted(images.rglob('*.png'))[0]
  path.write_bytes(path.read_bytes()[:-1] + b'x')  # in the sample, with the same size
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(folder, 'read_photo', lambda *args, **kwargs: noise(1)[0])
    assert open_data(str(images), 8).contents().hash != before.hash


def test_a_run_without_a_hash_resumes_with_a_message(tmp_path, capsys):
  run, images = tmp_path / 'run', images_in(tmp_path / 'images')
  source = started(run, name=images)
  config = read_config(run)
  for name in ('hash', 'classes', 'files', 'background'):
    del config['data'][name]
  (run / 'config.json').write_text(json.dumps(config))
  contents.check_same(run, config['data'], source, str(images))
  assert 'without hashes' in capsys.readouterr().out
  with pytest.raises(UsageError, match=r'data.background: "" -> "white"'):  # when asked for
    started(run, name=images)
  kept = keep_background(run, {'data': {'name': str(images)}}, [])
  assert kept['data']['background'] == ''  # transparency is dropped as it was
  assert contents.options(config['data'])['background'] == ''
  started(run, name=images, background='')
  assert 'without hashes' in capsys.readouterr().out
  assert read_config(run)['data'].keys() >= {'hash', 'classes'}
  assert keep_background(run, {'data': {'background': 'white'}}, [])['data']['background'] == ''  # and ever after
  assert keep_background(run, {'data': {'background': 'white'}}, ['data.background'])['data']['background'] == 'white'


def test_evaluating_on_different_data_is_refused(tmp_path, capsys):
  images = images_in(tmp_path / 'images')
  source = started(tmp_path / 'run', name=images)
  data = read_config(tmp_path / 'run')['data']
  contents.check_same(tmp_path / 'run', data, source, str(images))
  assert capsys.readouterr().out == ''
  other = images_in(tmp_path / 'other', 30, seed=1)
  with pytest.raises(UsageError, match='24 then, 30 now'):
    contents.check_same(tmp_path / 'run', data, open_data(str(other), 8), str(other))
  del data['hash']  # of an earlier version
  with pytest.raises(UsageError, match=r'\[9, 9, 3\].* \[8, 8, 3\]'):
    contents.check_same(tmp_path / 'run', data, open_data(str(images), 9), str(images))


@pytest.mark.parametrize('name', CONFIGS)
def test_every_config_resumes_with_more_steps(name, tmp_path):
  def at(steps, **optim):
    config = importlib.import_module(f'configs.{name}').get_config()
    config.train.steps = steps
    config = json.loads(json.dumps(config.to_dict()))
    next(iter(config['optim'].values())).update(optim)
    return config

  refuse_another_config(tmp_path, at(1000), at(2030), config_at=at)
  refuse_another_config(tmp_path, at(2030), at(1000), config_at=at)
  with pytest.raises(UsageError, match=r'belongs to another config \(optim.*.b1: 0.1 -> '):
    refuse_another_config(tmp_path, at(1000, b1=0.1), at(2000), config_at=at)


def test_run_ids_are_unique_and_permanent(tmp_path):
  config = json.loads(json.dumps(config_of('digits_flow')))
  for name in ('a', 'b'):
    os.close(open_workdir(tmp_path / name, config))
    (tmp_path / name / 'checkpoints' / '5').mkdir(parents=True)
  ids = [run_id_of(read_config(tmp_path / name)) for name in ('a', 'b')]
  assert len({*ids, ''}) == 3
  os.close(open_workdir(tmp_path / 'a', config))
  assert run_id_of(read_config(tmp_path / 'a')) == ids[0]
  (tmp_path / 'b' / 'config.json').write_text(json.dumps(config))  # as an earlier version wrote it, of a run that is finished
  (tmp_path / 'b' / 'checkpoints' / str(config['train']['steps'])).mkdir()
  os.close(open_workdir(tmp_path / 'b', config))
  assert run_id_of(read_config(tmp_path / 'b'))
  assert read_config(tmp_path / 'b') == config | {'schema': SCHEMA, 'run_id': run_id_of(read_config(tmp_path / 'b'))}


@pytest.mark.parametrize('name', ['evaluation', 'checkpoints', 'samples', 'previews/reconstructions', 'nan'])
def test_a_link_in_place_of_a_folder_is_refused(name, tmp_path):
  config = json.loads(json.dumps(config_of('digits_flow')))
  (tmp_path / 'elsewhere').mkdir()
  os.close(open_workdir(tmp_path / 'run', config))
  (tmp_path / 'run' / name).parent.mkdir(exist_ok=True)
  (tmp_path / 'run' / name).symlink_to(tmp_path / 'elsewhere')
  with pytest.raises(UsageError, match=f'run/{name} is a symbolic link'):
    open_workdir(tmp_path / 'run', config)
  if name == 'evaluation':
    with pytest.raises(UsageError, match=f'run/{name} is a symbolic link'):
      card_files.open_folder(tmp_path / 'run', config)
  (tmp_path / 'run' / name).unlink()
  (tmp_path / 'link').symlink_to(tmp_path / 'run')  # of the whole run: the user's own
  os.close(open_workdir(tmp_path / 'link', config))


def test_a_file_too_large_for_the_disk_is_named_and_the_old_one_stays(tmp_path):
  path = tmp_path / 'config.json'
  write_whole(path, 'old')
  before = resource.getrlimit(resource.RLIMIT_FSIZE)
  resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))  # stands in for a full disk
  try:
    with pytest.raises(NotWritten, match=r'config.json cannot be written \(File too large\): '):
      write_whole(path, 5000 * 'x')
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
  assert path.read_text() == 'old'
  assert [p.name for p in tmp_path.iterdir()] == ['config.json']


def test_folders_and_devices_are_not_replaced(tmp_path):
  (tmp_path / 'device').symlink_to('/dev/null')
  for path in (tmp_path, tmp_path / 'device'):
    with pytest.raises(NotWritten, match=str(path)):
      write_whole(path, 'x')
  assert (tmp_path / 'device').is_char_device()


URL = 'gs://bucket/run'


@pytest.mark.parametrize(
  ('main', 'words', 'option'),
  [
    (train.main, ['--workdir', URL], '--workdir'),
    (train.main, ['--workdir=s3://bucket/run'], '--workdir'),
    (train.main, ['--resume', URL], '--resume'),
    (sample.main, ['--run', URL], '--run'),
    (sample.main, ['--run', 'runs/x', '--images', URL], '--images'),
    (evaluate.main, ['--run', URL], '--run'),
    (evaluate.main, ['compare', 'runs/x', URL], 'runs'),
    (export.main, ['--run', 'runs/x', '--out', URL], '--out'),
    (sweep.main, ['--workdir', URL, '--set', 'train.seed=0'], '--workdir'),
    (runs.main, [URL], 'folders'),
    (convert.main, ['sd_vae', 'x.safetensors', '--out', URL], '--out'),
    (genjax.load, URL, 'path'),
  ],
)
def test_a_url_is_refused_instead_of_made_a_local_folder(main, words, option, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  with pytest.raises(UsageError, match=rf'^{option} (gs|s3):/.*bucket/run'):
    main(words)
  assert not list(tmp_path.iterdir())


def test_the_data_dir_of_tensorflow_datasets_may_be_a_bucket():
  with pytest.raises(UsageError, match='--run is missing'):
    evaluate.main(['--data_dir', URL])


@pytest.mark.parametrize(
  ('main', 'words'),
  [
    (train.main, ['--workdir', 'lost/run']),
    (sample.main, ['--run', 'lost/run']),
    (evaluate.main, ['--run', 'lost/run']),
    (runs.main, ['lost/run']),
    (genjax.load, 'lost/run'),
  ],
)
def test_a_mount_that_was_lost_is_named(main, words, monkeypatch):
  stat = os.stat

  def lost(path, *args, **options):
    if str(path).startswith('lost'):
      raise OSError(errno.ENOTCONN, os.strerror(errno.ENOTCONN))
    return stat(path, *args, **options)

  with monkeypatch.context() as patch:
    patch.setattr(os, 'stat', lost)
    with pytest.raises(UsageError, match='lost/run'):
      main(words)
  with pytest.raises(NotWritten, match='lost/run'), writing('lost/run'):
    lost('lost/run')
