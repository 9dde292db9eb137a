"""Which failures the collapse flags catch: trains and evaluates healthy runs and runs that fail on purpose.

  python -m benchmarks.collapse_table --out=runs/collapse --seeds=0,1,2

Runs that are missing in --out are trained and evaluated with train.py and evaluate.py. The cards are copied to --cards, and a
Markdown table is printed. The thresholds in genjax/metrics/collapse.py were chosen on seed 0; seeds 1 and 2 test them. Inspect
the images in <out>/<run>/samples.
"""

import argparse
import contextlib
import io
import json
import subprocess
import sys
from pathlib import Path

import evaluate
from genjax.files import write_json
from genjax.metrics import collapse
from genjax.networks.mlp import MLPGenerator

ROOT = Path(__file__).parent.parent
FEATURES = (
  'relative_recall',
  'relative_coverage',
  'class_variety',
  'class_variety_lowest',
  'class_share_lowest',
  'label_agreement',
)
GENERATOR, STEPS = '--config.objective.generator', '--config.train.steps'
UNCONDITIONAL = '--config.objective.conditioner.cls=conditioners.Unconditional'
ALLOW = '--allow_package=benchmarks'
# Name -> config and overrides. Runs in HEALTHY train well; runs in FAILING collapse or do not learn.
HEALTHY = {
  'gan': ('digits_gan', []),
  'gan_unconditional': ('digits_gan', [UNCONDITIONAL, f'{STEPS}=4000']),
  'vae': ('digits_vae', [f'{STEPS}=2000']),
  'vae_unconditional': ('digits_vae', [UNCONDITIONAL, f'{STEPS}=2000']),
  'flow': ('digits_flow', [f'{STEPS}=500']),
}
FAILING = {
  'gan_d_rate_1e-2': ('digits_gan', ['--config.optim.discriminator.learning_rate=1e-2']),
  'gan_z_dim_1': ('digits_gan', [f'{GENERATOR}.z_dim=1', f'{STEPS}=3000']),
  'gan_ignores_labels': ('digits_gan', [f'{GENERATOR}.cls=benchmarks.collapse_table.IgnoresLabels', ALLOW, f'{STEPS}=3000']),
  'gan_ignores_latents': ('digits_gan', [f'{GENERATOR}.cls=benchmarks.collapse_table.IgnoresLatents', ALLOW, f'{STEPS}=3000']),
  'gan_g_rate_1e-2': ('digits_gan', ['--config.optim.generator.learning_rate=1e-2', f'{STEPS}=2000']),
  'gan_300_steps': ('digits_gan', [f'{STEPS}=300']),
  'gan_unpenalized_wasserstein': (
    'digits_gan',
    ['--config.objective.loss.cls=objectives.gan.losses.Wasserstein', f'{STEPS}=2000'],
  ),
  'vae_beta_30': ('digits_vae', ['--config.objective.beta=30.0', f'{STEPS}=1000']),
  'vae_unconditional_beta_30': ('digits_vae', [UNCONDITIONAL, '--config.objective.beta=30.0', f'{STEPS}=1000']),
  'flow_60_steps': ('digits_flow', [f'{STEPS}=60']),
}


class IgnoresLabels(MLPGenerator):
  """A generator whose images do not depend on their labels."""

  def __call__(self, z, cond, train=True):
    return super().__call__(z, {'label': 0 * cond['label']}, train)


class IgnoresLatents(MLPGenerator):
  """A generator whose images depend on their labels alone."""

  def __call__(self, z, cond, train=True):
    return super().__call__(0 * z, cond, train)


def load_card(out: Path, name: str, seed: int, samples: int) -> dict:
  """The card of a run, which is trained and evaluated first if it is missing."""
  config, overrides = (HEALTHY | FAILING)[name]
  run = out / f'{name}_{seed}'
  if not (run / 'checkpoints').is_dir():
    seeded = [f'--config.train.seed={seed}', '--config.train.sample_every=1000000', '--config.train.checkpoint_every=1000000']
    train = [sys.executable, 'train.py', f'--config=configs/{config}.py', f'--workdir={run}', *overrides, *seeded]
    subprocess.run(train, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
  if not (run / 'evaluation').is_dir():
    allowed = [option for option in overrides if option == ALLOW]
    with contextlib.redirect_stdout(io.StringIO()):
      evaluate.main([f'--run={run}', f'--samples={samples}', '--likelihood=0', *allowed])
  (path,) = (run / 'evaluation').glob('*.json')
  return json.loads(path.read_text())


def row(name: str, seed: int, card: dict) -> str:
  """A row of the table."""
  metrics, values = card['metrics'], collapse.collapse_metrics(card['metrics'])
  others = {name: value for name, value in values.items() if name not in FEATURES and not name.startswith('copies_')}
  is_gan = card['model']['objective'] == 'GAN'
  pixels = collapse.flags(others, is_gan)
  features = [name for name in FEATURES if name in values and collapse.feature_flags(others | {name: values[name]}, is_gan)]
  cells = [f'{metrics[name]:.3g}' for name in ('fid', 'precision', 'recall', 'coverage')]
  cells += [f'{values[name]:.2f}' if name in values else '' for name in FEATURES]
  return f'| {" | ".join([name, str(seed), *cells, str(len(pixels) or ""), ", ".join(features)])} |'


def main() -> None:
  parser = argparse.ArgumentParser(description='The table of docs/models/gan.md: which runs the collapse flags catch.')
  parser.add_argument('--out', type=Path, default=Path('runs/collapse'), help='run directories (runs/collapse)')
  parser.add_argument('--cards', type=Path, help='a folder for copies of the cards')
  parser.add_argument('--seeds', default='0,1,2', help='training seeds (0,1,2)')
  parser.add_argument('--only', default='', help='names of runs, such as gan,vae')
  parser.add_argument('--samples', type=int, default=2000, help='samples per run (2000)')
  args = parser.parse_args()
  header = ['run', 'seed', 'FID', 'precision', 'recall', 'coverage', *FEATURES, 'flags by pixels', 'flags by features']
  print(f'| {" | ".join(header)} |\n|{"---|" * len(header)}')
  for name in args.only.split(',') if args.only else [*HEALTHY, *FAILING]:
    for seed in map(int, args.seeds.split(',')):
      card = load_card(args.out.resolve(), name, seed, args.samples)
      card['model']['run'] = f'{name}_{seed}'
      if args.cards:
        args.cards.mkdir(parents=True, exist_ok=True)
        write_json(args.cards / f'{name}_{seed}.json', card)
      print(row(name, seed, card), flush=True)


if __name__ == '__main__':
  main()
