"""Whether this checkout computes, bit for bit, what another commit does: `python -m tests.same_bits --against COMMIT`.

Every config takes three steps of train.py in both, with narrow networks and on one device, and four images are sampled.
Parameters, their averages, buffers and images are compared. What a commit computed is kept in --work, so that the script goes
on where it was stopped; of uncommitted changes nothing is kept. Data sets that are not in the wheels are replaced by random
images.
"""

import argparse
import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parent.parent
SMALL = {
  'width': 8,
  'hidden': 16,
  'head_features': 8,
  'depth': 1,
  'heads': 2,
  'w_dim': 8,
  'mapping_depth': 1,
  'stddev_group': 1,
}
CHANNELS = {'digits': 1, 'mnist': 1, 'fashion_mnist': 1}
RENAMED = {'mnist_binarised_vae': 'mnist_binarized_vae'}  # configs


def overrides(spec: dict, path: str = '--config.objective') -> list[str]:
  """Flags that make the networks of a spec narrow, of two resolutions at most."""
  words = []
  for key, value in spec.items():
    if isinstance(value, dict):
      words += overrides(value, f'{path}.{key}')
    elif key in SMALL and value:
      words.append(f'{path}.{key}={SMALL[key]}')
    elif key == 'multipliers':
      words.append(f'{path}.{key}={tuple(value[:2])}')
    elif key == 'blocks':
      words.append(f'{path}.{key}={1 if isinstance(value, int) else (1,) * len(value)}')
  return words


def compute(name: str, work: Path, result: Path) -> None:
  """Trains a config of the checkout in the current directory, samples, and writes all arrays to `result`."""
  import jax

  import genjax

  name = RENAMED[name] if name in RENAMED and not Path(f'configs/{name}.py').exists() else name
  config = importlib.import_module(f'configs.{name}').get_config().to_dict()
  data, side = config['data'], config['data']['resolution']
  words = overrides(config['objective'])
  if data['name'] not in ('digits', 'gaussians_25'):
    path = work / f'{data["name"]}_{side}.npz'
    if not path.exists():
      random = np.random.default_rng(0)
      images = random.integers(0, 256, (256, side, side, data['channels'] or CHANNELS.get(data['name'], 3)), np.uint8)
      np.savez(path, image=images, label=np.arange(256) % 10)
    words.append(f'--config.data.name={path}')
  workdir = result.with_suffix('.run')
  command = [sys.executable, 'train.py', f'--config=configs/{name}.py', f'--workdir={workdir}', *words]
  command += ['--config.train.steps=3', '--config.train.batch_size=8', '--config.train.evaluate_every=0']
  done = subprocess.run(command, capture_output=True, text=True)
  if done.returncode:
    raise SystemExit(done.stdout + done.stderr)
  run = genjax.load(workdir)
  options = {'steps': 4} if run.options.get('steps', 0) > 4 else {}
  arrays = {'images': run.sample(jax.random.key(0), 4, **options)}
  for part, variables in (('ema', run.variables), ('last', genjax.load(workdir, ema=False).variables)):
    for path, leaf in jax.tree_util.tree_leaves_with_path(variables._asdict()):
      arrays[part + '/' + jax.tree_util.keystr(path, simple=True, separator='/')] = leaf
  np.savez(result, **{key: np.asarray(value) for key, value in arrays.items()})


def difference(a: Path, b: Path) -> str:
  """'' if two files hold the same arrays, else what differs."""
  with np.load(a) as old, np.load(b) as new:
    if missing := sorted(set(old.files) ^ set(new.files)):
      return f'{len(missing)} arrays are in one alone, such as {missing[0]}'
    apart = [name for name in old.files if not np.array_equal(old[name], new[name], equal_nan=True)]
    if not apart:
      return ''
    largest = max(apart, key=lambda name: np.abs(old[name] - new[name]).max() if old[name].shape == new[name].shape else np.inf)
    amount = np.abs(old[largest] - new[largest]).max() if old[largest].shape == new[largest].shape else 'another shape'
    return f'{len(apart)} of {len(old.files)} arrays, {largest} by {amount:.3g}'


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--against', required=True, help='the commit to compare with')
  parser.add_argument('--work', type=Path, default=Path('same_bits'), help='a folder for results (same_bits)')
  parser.add_argument('--only', help='names of configs, separated by commas (all)')
  parser.add_argument('--compute', help=argparse.SUPPRESS)  # in a subprocess: compute this config into this file
  args = parser.parse_args()
  work = args.work.resolve()
  if args.compute:
    name, result = args.compute.split('=')
    return compute(name, work, Path(result))
  git = lambda *words, cwd=ROOT: subprocess.run(['git', *words], cwd=cwd, check=True, capture_output=True, text=True).stdout  # noqa: E731
  old = git('rev-parse', args.against).strip()
  dirty = bool(git('status', '--porcelain').strip())
  new = git('rev-parse', 'HEAD').strip() + '_uncommitted' * dirty
  checkout = work / 'checkouts' / old
  if not checkout.exists():
    git('clone', '--quiet', str(ROOT), str(checkout))
    git('checkout', '--quiet', old, cwd=checkout)
  names = sorted(path.stem for path in (checkout / 'configs').glob('*.py') if path.stem not in ('__init__', 'common'))
  names = [name for name in names if not args.only or name in args.only.split(',')]
  env = {**os.environ, 'JAX_NUM_CPU_DEVICES': '1'}
  rows = {}
  for name in names:
    results = []
    for commit, folder in ((old, checkout), (new, ROOT)):
      result = work / 'results' / commit / f'{name}.npz'
      result.parent.mkdir(parents=True, exist_ok=True)
      results.append(result)
      if result.exists() and not commit.endswith('uncommitted'):
        continue
      subprocess.run(['rm', '-rf', str(result.with_suffix('.run'))], check=True)
      words = [sys.executable, str(Path(__file__)), '--against', old, '--work', str(work), '--compute', f'{name}={result}']
      done = subprocess.run(words, cwd=folder, env={**env, 'PYTHONPATH': str(folder)}, capture_output=True, text=True)
      if done.returncode:
        rows[name] = f'{commit[:7]} failed: {done.stderr.strip().splitlines()[-1]}'
        result.unlink(missing_ok=True)
        break
    else:
      rows[name] = difference(*results)
    print(f'{name:28} {rows[name] or "equal"}', flush=True)
  (work / f'{old[:7]}_{new[:7]}.json').write_text(json.dumps(rows, indent=2))
  print(
    f'{sum(not row for row in rows.values())} of {len(rows)} configs are equal: {old[:7]}, {new[:7]}{" uncommitted" * dirty}.'
  )


if __name__ == '__main__':
  main()
