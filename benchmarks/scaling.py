"""What a step costs beyond these machines: bytes moved and held per device, read off the compiled program.

  python -m benchmarks.scaling --config=configs/cifar10_flow.py --devices=1,2,4,8,16,32,64

Compiles the step for simulated CPU devices without running it. `moved` is the payload of the program's collectives per step
(what is reduced, or the whole that is gathered or scattered), `state` what a device stores between steps. Prints JSON, a line
for each strategy and number of devices. The figures are the partitioner's, which is the same for all backends; the fusion
and scheduling of collectives are not.
"""

import argparse
import functools
import importlib
import json
import os
import re
from pathlib import Path

os.environ.setdefault('JAX_NUM_CPU_DEVICES', '64')
if '--xla_backend_optimization_level' not in os.environ.get('XLA_FLAGS', ''):  # machine code is not looked at
  os.environ['XLA_FLAGS'] = os.environ.get('XLA_FLAGS', '') + ' --xla_backend_optimization_level=0'

import jax
import numpy as np

from genjax import rng
from genjax.build import build, fill_inferred
from genjax.data.sources.base import example_of, numbered
from genjax.parallel import batch_sharding, compile_step, make_mesh, replicated, state_sharding
from genjax.run import abstract_state
from genjax.step import train_step, turn_at
from genjax.types import Example, example_batch

COLLECTIVE = re.compile(r'= (.*?) (all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute)(?:-start)?\(')
SHAPE = re.compile(r'\b(pred|[suf]\d+|bf16)\[([\d,]*)\]')


def size(shapes: str) -> int:
  """Bytes of HLO's `(f32[2,3]{1,0}, s32[])`."""
  bits = lambda kind: 8 if kind == 'pred' else int(re.sub(r'\D', '', kind))  # noqa: E731
  return sum(
    bits(kind) // 8 * int(np.prod([int(n) for n in sides.split(',') if n] or [1])) for kind, sides in SHAPE.findall(shapes)
  )


def collectives(hlo: str, devices: int) -> dict[str, int]:
  """Kind -> bytes of payload in a compiled program."""
  moved = {}
  for shapes, kind in COLLECTIVE.findall(hlo):
    moved[kind] = moved.get(kind, 0) + size(shapes) * (devices if kind == 'reduce-scatter' else 1)
  return moved


def measure(objective, optimizers, example: Example, batch_size: int, devices: int, strategy: str) -> dict:
  """Of the first step, at which all players play, on `devices` devices."""
  mesh = make_mesh(jax.devices()[:devices])
  like = abstract_state(objective, example, optimizers)
  place = lambda x, sharding: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)  # noqa: E731
  state = jax.tree.map(place, like, state_sharding(like, mesh, strategy))
  batch = jax.tree.map(lambda x: place(x, batch_sharding(mesh)), jax.eval_shape(lambda: example_batch(example, batch_size)))
  key = place(jax.eval_shape(lambda: rng.key(0)), replicated(mesh))
  step = functools.partial(train_step, objective=objective, optimizers=optimizers, data_size=example.size)
  transformed = compile_step(step, mesh, strategy, {}).transformed(state, turn_at(objective, 0))
  compiled = transformed.lower(state, batch, key, {}).compile()
  memory = compiled.memory_analysis()
  trained = jax.tree.leaves([like.params[name] for name in objective.players])
  held = sum(np.prod(x.sharding.shard_shape(x.shape), dtype=int) * x.dtype.itemsize for x in jax.tree.leaves(state))
  return {
    'strategy': strategy,
    'devices': devices,
    'gradient_bytes': sum(x.size * x.dtype.itemsize for x in trained),
    'moved_bytes': collectives(compiled.as_text(), devices),
    'state_bytes_per_device': int(held),
    'temporary_bytes_per_device': int(memory.temp_size_in_bytes),
  }


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--config', default='configs/digits_flow.py')
  parser.add_argument('--devices', default='1,2,4,8,16,32,64')
  parser.add_argument('--image_shape', default='', help='H,W,C if the data are not those of the config name')
  args = parser.parse_args()
  config = importlib.import_module(f'configs.{Path(args.config).stem}').get_config().to_dict()
  side, channels = config['data']['resolution'], 3 if config['data']['name'] == 'cifar10' else 1
  image_shape = tuple(map(int, args.image_shape.split(','))) if args.image_shape else (side, side, channels)
  classes = numbered(10)  # as all data sets have that configs name
  example = example_of(image_shape, {'label': np.zeros(1, np.int32)}, classes, 50_000)
  inferred = {'image_shape': image_shape, 'classes': len(classes), 'dtype': config['train']['dtype']}
  objective = build(fill_inferred(config['objective'], inferred))
  optimizers = build(config['optim'])
  for devices in map(int, args.devices.split(',')):
    batch_size = -(-config['train']['batch_size'] // devices) * devices
    for strategy in ('jit', 'fsdp'):
      print(json.dumps(measure(objective, optimizers, example, batch_size, devices, strategy)), flush=True)


if __name__ == '__main__':
  main()
