"""Do the distances rise with the corruption? Evaluates corrupted test images against the training images.

  python -m benchmarks.corruptions --data digits --resolution 8 --out corruptions

Writes an npz file for each corruption and level, evaluates it with evaluate.py --images, and prints a table of the cards.
Other options are passed to evaluate.py, such as --features efficientnet_lite0.
"""

import argparse
import contextlib
import json
import sys
from pathlib import Path

import numpy as np
from jaxtyping import Int, UInt8
from scipy.ndimage import gaussian_filter

import evaluate
from genjax.metrics.reference import real_images
from genjax.metrics.tables import markdown

LEVELS = {
  'blur, sigma of the side': (0.05, 0.1, 0.2),
  'noise, deviation of 255': (80, 120, 160),
  'inverted, part': (0.1, 0.2, 0.4),
  'classes dropped': (1, 2, 4),
}
DISTANCES = ('fid', 'fid_infinity', 'kid')
OTHERS = ('precision', 'recall', 'density', 'coverage', 'inception_score')


def corrupt(
  images: UInt8[np.ndarray, 'n h w c'], labels: Int[np.ndarray, 'n'], kind: str, level: float
) -> tuple[UInt8[np.ndarray, 'n h w c'], Int[np.ndarray, 'n']]:
  """Applies one corruption of LEVELS. 'classes dropped' drops the last classes and so returns fewer images."""
  random, x = np.random.default_rng(0), images.astype(np.float64)
  if kind.startswith('blur'):
    sigma = level * images.shape[1]
    x = gaussian_filter(x, (0, sigma, sigma, 0))
  elif kind.startswith('noise'):
    x = x + level * random.normal(size=x.shape)
  elif kind.startswith('inverted'):
    chosen = random.random(len(x)) < level
    x[chosen] = 255 - x[chosen]
  else:
    kept = labels <= labels.max() - level
    x, labels = x[kept], labels[kept]
  return x.round().clip(0, 255).astype(np.uint8), labels


def cases(images, labels):
  """Yields (corruption, level, images, labels) by increasing level, all with the size of the smallest set."""
  corrupted = [(kind, level, *corrupt(images, labels, kind, level)) for kind, levels in LEVELS.items() for level in levels]
  n = min(len(x) for _, _, x, _ in corrupted)
  yield 'none', 0, images[:n], labels[:n]
  for kind, level, x, y in corrupted:
    yield kind, level, x[:n], y[:n]


def main(argv: list[str]) -> None:
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--data', required=True, help='a data set with labels and a test split, as for evaluate.py')
  parser.add_argument('--resolution', type=int, required=True)
  parser.add_argument('--data_dir', default='')
  parser.add_argument('--reference_images', default='10000', help='maximum number of training images in the reference (10000)')
  parser.add_argument('--out', type=Path, required=True, help='a folder for the images and cards')
  args, rest = parser.parse_known_args(argv)
  args.out.mkdir(parents=True, exist_ok=True)
  sources = real_images(name=args.data, resolution=args.resolution, data_dir=args.data_dir)
  for split, source in zip(('train', 'test'), sources, strict=True):
    images, cond = source.read(np.arange(len(source)))
    labels = cond['label']
    np.savez(args.out / f'{split}.npz', image=images, label=labels)  # faster to read than image files
  order = np.random.default_rng(0).permutation(len(images))
  rows = [['corruption', 'level', *DISTANCES, *OTHERS]]
  for kind, level, x, y in cases(images[order], labels[order]):
    folder = args.out / f'{kind.split(",")[0].replace(" ", "_")}_{level:g}'
    folder.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(folder / 'images.npz', image=x, label=y)
    options = ['--images', str(folder / 'images.npz'), '--data', str(args.out / 'train.npz'), '--out', str(folder / 'cards')]
    options += ['--reference_images', args.reference_images, *rest]
    with contextlib.redirect_stdout(sys.stderr):
      evaluate.main(options)
    newest = max((folder / 'cards').glob('*.json'), key=lambda path: path.stat().st_mtime)
    card = json.loads(newest.read_text())
    metrics = card['metrics']
    rows.append([kind, f'{level:g}', *(f'{metrics[name]:.3g}' if name in metrics else '' for name in DISTANCES + OTHERS)])
  print(f'{card["protocol"]["samples"]} images each\n\n{markdown(rows)}')


if __name__ == '__main__':
  main(sys.argv[1:])
