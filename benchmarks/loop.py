"""What the training loop costs: images per second of the bare compiled step against the same step inside train.py.

  python -m benchmarks.loop --config=configs/fashion_mnist_vae.py --steps=400 --rounds=3

Inside train.py data, metrics and checkpoints are on, at the config's own intervals, except that one checkpoint is saved in
the middle of the run at least. Each round times the bare step, then train.py; the medians are compared. Prints JSON.
"""

import argparse
import importlib.util
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import jax
import numpy as np

from genjax import parallel
from genjax.data.pipeline import Pipeline
from genjax.step import init_state, playing
from genjax.types import example_batch
from train import objects

ROOT = Path(__file__).parent.parent


def load_config(path: str) -> dict:
  spec = importlib.util.spec_from_file_location('config', path)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module.get_config().to_dict()


def bare(config: dict, steps: int) -> float:
  """Images per second of the compiled step on one batch that stays on the device."""
  made, mesh = objects(config), parallel.make_mesh()
  sharding = parallel.replicated(mesh)
  init = lambda key: init_state(made.objective, made.optimizers, key, example_batch(made.source.image_shape))  # noqa: E731
  state = jax.jit(init, out_shardings=sharding)(jax.random.key(0))
  key = jax.device_put(jax.random.key(1), sharding)
  pipeline = Pipeline(made.source, made.train.batch_size, key, 0, mesh)
  batch, step = jax.block_until_ready(pipeline(0)), made.compile_step(mesh)
  pipeline.close()
  for t in range(5):
    state, metrics = step(state, batch, key, playing(made.objective, t))
  jax.block_until_ready(state)
  start = time.perf_counter()
  for t in range(steps):
    previous, (state, metrics) = metrics, step(state, batch, key, playing(made.objective, t))
    jax.block_until_ready(previous)
  jax.block_until_ready(state)
  return steps * made.train.batch_size / (time.perf_counter() - start)


def inside(path: str, config: dict, steps: int) -> float:
  """Images per second that train.py logs over `steps` steps, without compiling and without drawing samples."""
  with tempfile.TemporaryDirectory() as folder:
    save = min(config['train']['checkpoint_every'], steps // 2)
    options = [
      f'--config.train.{k}={v}' for k, v in {'steps': steps, 'checkpoint_every': save, 'sample_every': 10 * steps}.items()
    ]
    command = [sys.executable, 'train.py', f'--config={path}', f'--workdir={folder}/run', *options]
    subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    lines = [json.loads(line) for line in Path(folder, 'run', 'metrics.jsonl').read_text().splitlines()]
  images = np.diff([0, *(line['kimg'] * 1000 for line in lines)])
  seconds = sum(n / line['images_per_second'] for n, line in zip(images, lines, strict=True))
  return float(images.sum() / seconds)


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--config', default='configs/digits_flow.py')
  parser.add_argument('--steps', type=int, default=400)
  parser.add_argument('--rounds', type=int, default=3)
  args = parser.parse_args()
  parallel.use_compilation_cache()
  config = load_config(args.config)
  rounds = [(bare(config, args.steps), inside(args.config, config, args.steps)) for _ in range(args.rounds)]
  bare_rate, inside_rate = (statistics.median(column) for column in zip(*rounds, strict=True))
  report = {
    'config': args.config,
    'batch_size': config['train']['batch_size'],
    'steps': args.steps,
    'device': f'{jax.device_count()} x {jax.devices()[0].device_kind}',
    'jax': jax.__version__,
    'bare_images_per_second': round(bare_rate, 1),
    'train_py_images_per_second': round(inside_rate, 1),
    'overhead_percent': round(100 * (bare_rate / inside_rate - 1), 2),
    'rounds': [[round(x, 1) for x in pair] for pair in rounds],
  }
  print(json.dumps(report, indent=2))


if __name__ == '__main__':
  main()
