"""Sample from a run: python sample.py --run runs/x --n 64 --seed 0 --out grid.png --label 3 --solver heun --steps 25

Options beyond those below are the objective's own; --help with --run lists them.
"""

import os
import signal

if __name__ == '__main__':  # Ctrl-C while the modules below are imported
  signal.signal(signal.SIGINT, lambda *_: (os.write(2, b'SIGINT: ended.\n'), os._exit(130)))

import io
import json
import math
import sys
from pathlib import Path

import numpy as np
from absl import logging

from genjax import parallel, rng
from genjax.commandline import check_guide, options_help, parse_options, parse_run, run_parser
from genjax.errors import UsageError
from genjax.files import write_whole
from genjax.images import check_finite, not_finite, save_grid, to_uint8
from genjax.latents import MOVING, save_frames
from genjax.run import grid_columns, grid_labels, load
from genjax.signals import exit_on_interrupt


def main(argv: list[str]) -> None:
  parser = run_parser(__doc__)
  parser.add_argument('--n', type=int, help='how many images (64; of --mix 6 a side)')
  parser.add_argument('--seed', type=int, default=0, help='image i depends on (seed, i) alone (0)')
  parser.add_argument('--label', help='a class, several as 0,1,2 in turn, or "each" for all in turn (default: drawn)')
  parser.add_argument('--out', help='a PNG with the grid')
  parser.add_argument(
    '--walk', type=int, help='with a latent: a way through so many in --n frames, .gif, .webp or .png (a strip)'
  )
  parser.add_argument('--mix', type=int, help='StyleGAN2: --n by --n images, styles of the row, from this layer on the column')
  parser.add_argument('--npz', help='a file with image uint8 [N, H, W, C], label, seed and options')
  parsed = parse_run(parser, argv)
  if parsed is None:
    return
  args, rest = parsed
  if not args.help and not (args.out or args.npz):
    raise UsageError('say where to: --out grid.png, --npz out.npz, or both.')
  if args.walk is not None and args.mix is not None:
    raise UsageError('--walk and --mix: give one of them.')
  if args.out and not args.out.lower().endswith(('.png', *(MOVING if args.walk is not None else ()))):
    raise UsageError(f'--out {args.out}: the grid is a PNG; give a name ending in .png (a walk is .gif, .webp or .png).')
  parallel.use_compilation_cache()
  logging.set_verbosity(logging.ERROR)  # Orbax's warnings
  run = load(args.run, args.step, not args.no_ema, args.allow_package, args.best)
  weaker = args.guide and load(args.guide, args.guide_step, not args.no_ema, args.allow_package)
  if weaker:
    run = run.guided_by(weaker)
  if args.help:
    return print(parser.format_help() + options_help(run))
  options = parse_options(rest, run.options, vars(args))
  check_guide(args.guide, run.options | options)

  args.n = args.n if args.n is not None else 64 if args.mix is None else 6
  if not 0 <= args.seed < 2**32:
    raise UsageError(f'--seed {args.seed}: give a number from 0 to {2**32 - 1}.')
  key = rng.key(args.seed)
  run.check_request(key, **{'--n': args.n})
  if args.walk is not None or args.mix is not None:
    return through_latents(args, run, key, options)
  labels = run.labels(parse_label(args.label, args.n, run), args.n, key)
  images = run.sample(key, args.n, labels, args.batch_size, **options)
  check_finite(int(not_finite(images)), args.n)
  images = np.asarray(to_uint8(images))
  if args.out:
    save_grid(args.out, images, columns_of(args.label, args.n, run))
    print(args.out)
  if args.npz:
    arrays = {} if labels is None else {'label': labels}
    protocol = {'run': args.run, 'step': run.step, 'ema': not args.no_ema, 'guide': args.guide, **run.options, **options}
    file = io.BytesIO()
    np.savez_compressed(file, image=images, seed=args.seed, options=json.dumps(protocol), **arrays)
    write_whole(Path(args.npz), file.getvalue())
    print(args.npz)


def through_latents(args, run, key, options: dict) -> None:
  """Writes what --walk and --mix ask for."""
  if args.npz or not args.out:
    raise UsageError('--walk and --mix write pictures: give --out alone.')
  if args.label and (args.label == 'each' or ',' in args.label):
    raise UsageError(f'--label {args.label}: --walk and --mix are of one class (without, that of the first image).')
  label = parse_label(args.label, 1, run)
  label = None if label is None else int(label[0])
  if args.walk is None:
    save_grid(args.out, np.asarray(to_uint8(run.mix(key, args.n, args.mix, label, **options))), args.n)
  else:
    frames = np.asarray(to_uint8(run.walk(key, args.walk, args.n, label, **options)))
    if args.out.lower().endswith('.png'):  # from one stop to the next in each row
      save_grid(args.out, frames, math.ceil(args.n / args.walk))
    else:
      save_frames(args.out, frames)
  print(args.out)


def columns_of(label: str | None, n: int, run) -> int:
  """Of a grid of `n` images: about as many as rows, each of one class where classes come in turn."""
  in_turn = grid_columns(run.objective) if label == 'each' else len((label or '').split(','))
  return in_turn * max(1, round(math.sqrt(n) / in_turn))


def parse_label(text: str | None, n: int, run) -> np.ndarray | None:
  """Labels int32 [n], or None if the user said nothing."""
  if text is None:
    return None
  if text == 'each':
    if not run.objective.num_classes:
      raise UsageError('--label each: this model was trained without labels.')
    return grid_labels(run.objective, n)
  try:
    labels = [int(part) for part in text.split(',')]
  except ValueError:
    raise UsageError(f'--label {text}: give a class, several as 0,1,2, or each.') from None
  run.labels(labels if len(labels) > 1 else labels[0], len(labels), None)  # checked as they were given
  return np.resize(np.array(labels), n)


if __name__ == '__main__':
  exit_on_interrupt('stopped.')
  try:
    main(sys.argv[1:])
  except UsageError as error:
    sys.exit(f'error: {error}')
