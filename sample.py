"""Sample from a run: python sample.py --run runs/x --n 64 --seed 0 --out grid.png --label 3 --solver heun --steps 25

Without --out, --images and --npz the grid is written into the run directory.

Models have more options than those below; --help with --run lists them.
"""

import os
import signal

if __name__ == '__main__':  # Ctrl-C while the modules below are imported
  signal.signal(signal.SIGINT, lambda *_: (os.write(2, b'SIGINT: ended.\n'), os._exit(130)))

import io
import json
import math
import re
import sys
from pathlib import Path

import numpy as np
from absl import logging

from genjax import parallel, rng
from genjax.build import as_spec
from genjax.commandline import check_guide, open_run, options_help, parse_options, parse_run, run_parser
from genjax.conditioners import class_label
from genjax.errors import UsageError
from genjax.files import check_writable, write_whole
from genjax.images import ENCODINGS, check_finite, count_not_finite, save_grid, save_image, to_uint8
from genjax.latents import MOVING, save_frames
from genjax.run import grid_columns, grid_cond
from genjax.signals import OnInterrupt, exit_on_interrupt


def main(argv: list[str]) -> None:
  parser = run_parser(__doc__)
  parser.add_argument(
    '--n', type=int, help='number of images (64); with --walk, of frames; with --mix, of rows and of columns (6)'
  )
  parser.add_argument('--seed', type=int, default=0, help='image i depends only on (seed, i) (0)')
  parser.add_argument(
    '--label', help='a class by number or name, several in turn such as 0,1,2, or "each" for all in turn (default: random)'
  )
  parser.add_argument('--out', help='the file of the grid: .png, .jpg or .webp (default: in the run directory)')
  parser.add_argument('--images', help='write one PNG file per image to this folder')
  parser.add_argument(
    '--walk',
    type=int,
    help='GANs and VAEs: interpolate between this many latents in --n frames; --out is .gif, .webp, or .png (a grid)',
  )
  parser.add_argument(
    '--mix',
    type=int,
    help="StyleGAN2: --n x --n images with the row's styles below this layer, and the column's from this layer on",
  )
  parser.add_argument('--npz', help='write an npz file with image uint8 [N, H, W, C], label, seed and options')
  parsed = parse_run(parser, argv)
  if parsed is None:
    return
  args, rest = parsed
  if args.walk is not None and args.mix is not None:
    raise UsageError('--walk and --mix cannot be combined: use one of them.')
  suffixes = (*ENCODINGS, *MOVING) if args.walk is not None else tuple(ENCODINGS)
  if args.out and not args.out.lower().endswith(suffixes):
    raise UsageError(f'--out {args.out}: use a name that ends in {", ".join(dict.fromkeys(suffixes))}.')
  if args.images is not None:
    check_folder(args.images, args.n or 64)
  for option in ('out', 'npz'):
    if path := getattr(args, option):
      check_writable(Path(path).parent, f'use another path for --{option}')
  parallel.use_compilation_cache()
  logging.set_verbosity(logging.ERROR)  # Orbax's warnings
  run = open_run(args)
  if args.help:
    return print(parser.format_help() + options_help(run))
  conditioner = run.objective.conditioner
  fields = {name: '' for name in conditioner.fields if name != 'label' or not class_label(conditioner)}
  if args.label and 'label' in fields:  # the text is encoded by a custom conditioner
    rest += ['--label', args.label]
    args.label = None
  options = parse_options(rest, run.options | fields, vars(args), args.allow_package)
  values = {name: options.pop(name) for name in fields if name in options}
  check_guide(args.guide, run.options | options)

  args.n = args.n if args.n is not None else 64 if args.mix is None else 6
  if not 0 <= args.seed < 2**32:
    raise UsageError(f'--seed {args.seed} must be from 0 to {2**32 - 1}.')
  key = rng.key(args.seed)
  run.check_request(key, **{'--n': args.n})
  if args.walk is not None or args.mix is not None:
    return save_latent_images(args, argv, run, key, values, options)
  values |= {'label': parse_label(args.label, args.n, run)} if args.label else {}
  images = run.sample(key, args.n, batch_size=args.batch_size, progress=True, **values, **options)
  check_finite(int(count_not_finite(images)), args.n)
  images = np.asarray(to_uint8(images))
  if not (args.out or args.images or args.npz):
    args.out = str(run.path / 'sampled' / default_name(argv, run.step, args.seed, '.png'))
  if args.out:
    columns, of_one_class = num_columns(args.label, args.n, run), args.label == 'each' or ',' in (args.label or '')
    captions = [run.classes[i] for i in values['label'][:columns]] if of_one_class and len(images) >= columns else []
    save_grid(args.out, images, columns, captions)
    print(args.out)
  if args.images:
    for i, image in enumerate(images):
      save_image(Path(args.images) / file_name(i, args.n), image)
    print(f'{args.images}: {args.n} files')
  if args.npz:
    protocol = {'run': args.run, 'step': run.step, 'ema': run.ema, 'guide': args.guide, **run.options, **options}
    protocol = {name: as_spec(value) for name, value in protocol.items()}
    file = io.BytesIO()
    np.savez_compressed(file, image=images, seed=args.seed, options=json.dumps(protocol), **run.cond(values, args.n, key))
    write_whole(Path(args.npz), file.getvalue())
    print(args.npz)


def save_latent_images(args, argv: list[str], run, key, values: dict, options: dict) -> None:
  """Writes the interpolation of --walk, or the grid of --mix."""
  if args.npz or args.images:
    raise UsageError('--walk and --mix write one file, --out: remove --npz and --images.')
  suffix = '.png' if args.walk is None else '.gif'
  args.out = args.out or str(run.path / 'sampled' / default_name(argv, run.step, args.seed, suffix))
  if args.label and (args.label == 'each' or ',' in args.label):
    raise UsageError(f'--label {args.label}: --walk and --mix need a single class (default: the class of the first image).')
  cond = values | ({'label': parse_label(args.label, 1, run)[0]} if args.label else {})
  if args.walk is None:
    save_grid(args.out, np.asarray(to_uint8(run.mix(key, args.n, args.mix, **cond, **options))), args.n)
  else:
    frames = np.asarray(to_uint8(run.walk(key, args.walk, args.n, **cond, **options)))
    if args.out.lower().endswith(('.png', '.jpg', '.jpeg')):  # each row is an interpolation between two latents
      save_grid(args.out, frames, math.ceil(args.n / args.walk))
    else:
      save_frames(args.out, frames)
  print(args.out)


def file_name(i: int, n: int) -> str:
  """The name of the i-th of n files."""
  return f'{i:0{len(str(n - 1))}}.png'


def check_folder(folder: str, n: int) -> None:
  """Raises UsageError unless the folder can be written to and has no files other than those of `n` images."""
  if not folder:
    raise UsageError('--images is empty: set it to a folder.')
  check_writable(Path(folder), 'use another path for --images')
  others = {path.name for path in Path(folder).iterdir()} - {file_name(i, n) for i in range(n)} if Path(folder).is_dir() else ()
  if others:
    raise UsageError(f'--images {folder} contains other files, such as {min(others)}: use a new folder.')


def default_name(argv: list[str], step: int, seed: int, suffix: str) -> str:
  """The name of a file in the run directory, which contains the options that affect the samples."""
  text = re.sub(r'--(run|seed|allow_package|batch_size)[ =]\S+', '', ' '.join(argv))
  text = re.sub(r'[^A-Za-z0-9.,]+', '_', text).strip('_')[:100]
  return f'step_{step:08d}_seed_{seed}{"_" if text else ""}{text}{suffix}'


def num_columns(label: str | None, n: int, run) -> int:
  """The number of columns of a grid of `n` images: about as many as rows, with one class per column if there are several."""
  in_turn = grid_columns(run.objective) if label == 'each' else len((label or '').split(','))
  return in_turn * max(1, round(math.sqrt(n) / in_turn))


def parse_label(text: str, n: int, run) -> list[int]:
  """The `n` classes of --label, by number or name, in turn."""
  if not run.classes:
    raise UsageError(f'--label {text}: this model was trained without labels; remove the option.')
  if text == 'each':
    return grid_cond(run.objective, n)['label'].tolist()
  names, label = [text] if text in run.classes else text.split(','), class_label(run.objective.conditioner)
  return np.resize([label.number(parse_class(name, run), run.example) for name in names], n).tolist()


def parse_class(text: str, run) -> int | str:
  """The number of a class, or its name."""
  return int(text) if text.lstrip('-').isdecimal() and text not in run.classes else text


if __name__ == '__main__':
  exit_on_interrupt(OnInterrupt('stopped.'))
  try:
    main(sys.argv[1:])
  except UsageError as error:
    sys.exit(f'error: {error}')
