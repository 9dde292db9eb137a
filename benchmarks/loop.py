"""What the training loop costs: images per second of the bare compiled step against the same step inside train.py.

  python -m benchmarks.loop --config=configs/fashion_mnist_vae.py --steps=1000

Runs the real train.py, with data, metrics and checkpoints on and one save in the middle, and stops it every few steps to
time as many bare steps: the compiled step alone, on one batch that stays on the device. Neighbors in time are compared,
because a shared machine's speed drifts by more than the loop costs. The loop waits here for a save to end, which it does not
otherwise, and the first pair, in which the step is compiled, is dropped. Prints JSON.
"""

import argparse
import contextlib
import json
import sys
import tempfile
import time

import jax
import jax.numpy as jnp
import numpy as np

import train
from genjax import checkpoint, parallel
from genjax.commandline import load_config
from genjax.step import Turn


class PausedStep(parallel.CompiledStep):
  """A compiled step that, after each `block` calls, times as many bare ones on a state of its own."""

  block = 20
  inside: list[float] = []  # seconds of each block of calls, by train.py
  bare: list[float] = []  # seconds of as many bare steps, right after it
  turns: list[Turn] = []
  own_state = None
  start = 0.0

  def __call__(self, state, batch, key, turn):
    if len(self.turns) == self.block:
      jax.block_until_ready(state)
      self.inside.append(time.perf_counter() - self.start)
      self.time_bare_steps(state, batch, key)
      self.turns.clear()
      self.start = time.perf_counter()
    self.turns.append(turn)
    return super().__call__(state, batch, key, turn)

  def time_bare_steps(self, state, batch, key):
    if self.own_state is None:
      self.own_state = jax.tree.map(jnp.copy, state)
    jax.block_until_ready((self.own_state, batch))
    start = time.perf_counter()
    previous = None
    for turn in self.turns:
      self.own_state, metrics = super().__call__(self.own_state, batch, key, turn)
      jax.block_until_ready(previous)  # train.py too reads a step's metrics after dispatching the next
      previous = metrics
    jax.block_until_ready(self.own_state)
    self.bare.append(time.perf_counter() - start)


class NotedCheckpoints(checkpoint.Checkpoints):
  """Times a save: how long it blocks the loop, and how long it takes in total."""

  held: list[float] = []
  took: list[float] = []

  def save(self, state):
    jax.block_until_ready(state)
    start = time.perf_counter()
    super().save(state)
    self.held.append(time.perf_counter() - start)
    self.manager.wait_until_finished()
    self.took.append(time.perf_counter() - start)


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--config', default='configs/digits_flow.py')
  parser.add_argument('--steps', type=int, default=1000)
  parser.add_argument('--block', type=int, default=20, help='steps between two pauses (20)')
  args = parser.parse_args()
  parallel.CompiledStep, train.Checkpoints, PausedStep.block = PausedStep, NotedCheckpoints, args.block
  with tempfile.TemporaryDirectory() as folder:
    options = {'steps': args.steps, 'checkpoint_every': args.steps // 2, 'sample_every': 10 * args.steps}
    words = [f'--config.train.{name}={value}' for name, value in options.items()]
    with contextlib.redirect_stdout(sys.stderr):
      train.main([f'--config={args.config}', f'--workdir={folder}/run', *words])
  batch_size = load_config(args.config, {}, []).config['train']['batch_size']
  inside, bare = np.array(PausedStep.inside[1:]), np.array(PausedStep.bare[1:])
  draws = np.random.default_rng(0).integers(0, len(bare), (10_000, len(bare)))  # bootstrap over the pairs
  low, high = np.percentile(100 * (inside[draws].sum(axis=1) / bare[draws].sum(axis=1) - 1), [2.5, 97.5])
  images = args.block * len(bare) * batch_size
  report = {
    'config': args.config,
    'batch_size': batch_size,
    'steps': args.steps,
    'pairs': len(bare),
    'device': f'{jax.device_count()} x {jax.devices()[0].device_kind}',
    'jax': jax.__version__,
    'bare_images_per_second': round(images / bare.sum(), 1),
    'train_py_images_per_second': round(images / inside.sum(), 1),
    'overhead_percent': round(100 * (inside.sum() / bare.sum() - 1), 2),
    'overhead_percent_95': [round(low, 2), round(high, 2)],
    'save_holds_up_seconds': round(float(np.median(NotedCheckpoints.held)), 3),
    'save_takes_seconds': round(float(np.median(NotedCheckpoints.took)), 3),
    'save_percent_of_1000_steps': round(
      100 * float(np.median(NotedCheckpoints.took)) * images / batch_size / bare.sum() / 1000, 3
    ),
  }
  print(json.dumps(report, indent=2))


if __name__ == '__main__':
  main()
