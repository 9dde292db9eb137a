"""The real train.py on one device, narrow networks, as a user calls it."""

import os
import subprocess
import sys

import numpy as np
from PIL import Image

from tests.conftest import ROOT, config_of, image_shape, noise

UNCONDITIONAL = '--config.objective.conditioner.cls=conditioners.Unconditional'
TINY = {
  'digits_vae': ['--config.objective.encoder.width=8', '--config.objective.decoder.width=8'],
  'digits_gan': ['--config.objective.generator.width=8', '--config.objective.discriminator.width=8'],
  'digits_r3gan': [f'--config.objective.{part}.width=8' for part in ('generator', 'discriminator')],
  'digits_progressive': [f'--config.objective.{part}.width=4' for part in ('generator', 'discriminator')],
  'digits_stylegan2': [
    *(f'--config.objective.{part}.width=4' for part in ('generator', 'discriminator')),
    '--config.objective.generator.mapping_depth=1',
    '--config.objective.generator.w_dim=4',
  ],
}
TINY_UNET = [
  '--config.objective.network.width=8',
  '--config.objective.network.multipliers=(1,)',
  '--config.objective.network.attention=(8,)',
  '--config.objective.network.head_features=8',
]


def tiny(name):
  """Options that make a config's networks narrow."""
  objective = config_of(name)['objective']
  if name in TINY:
    return TINY[name]
  if objective.get('network', {}).get('cls') == 'networks.unet.UNet':
    return TINY_UNET
  return [
    f'--config.objective.{part}.width=8' for part, spec in objective.items() if isinstance(spec, dict) and 'width' in spec
  ]


def command(name, workdir, *more):
  """train.py on one device, as a user calls it."""
  options = ['--config.train.batch_size=8', '--config.train.sample_every=1000', '--config.train.log_every=5']
  return [
    sys.executable,
    'train.py',
    f'--config=configs/{name}.py',
    f'--workdir={workdir}',
    *tiny(name),
    *options,
    *more,
  ]


ENV = {**os.environ, 'JAX_NUM_CPU_DEVICES': '1'}


def train(name, workdir, *more, status=0, env=None):
  words, env = command(name, workdir, *more), ENV | (env or {})
  done = subprocess.run(words, cwd=ROOT, env=env, capture_output=True, text=True, timeout=300)
  assert done.returncode == status, done.stdout + done.stderr
  return done.stdout + done.stderr


def data_of(name, folder):
  """Options that train a config on random images of its data's shape; none for the digits, which are always there."""
  config = config_of(name)
  if config['data']['name'] == 'digits':
    return []
  path = folder / f'{name}.npz'
  images = noise(64, image_shape(config))
  np.savez(path, image=images, label=np.arange(len(images)) % 10)
  return [f'--config.data.name={path}']


def images_of_which_one_is_empty(path):
  """A folder of 24 gray images; 13.png cannot be read. Returns the options that train on it, streaming."""
  path.mkdir()
  for i in range(24):
    Image.new('L', (8, 8), i).save(path / f'{i:02}.png')
  (path / '13.png').write_bytes(b'')
  return [f'--config.data.name={path}', '--config.data.memory_gib=0.0', UNCONDITIONAL]
