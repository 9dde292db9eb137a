"""Evaluate a run: python evaluate.py --run runs/x --samples 10000
              (writes runs/x/evaluation/*.json, and a grid of the samples nearest to training images)
Only its likelihood: python evaluate.py --run runs/x --metrics likelihood --estimator iwae_50
External images: python evaluate.py --images DIR_OR_NPZ --data fashion_mnist   (writes evaluation/NAME/*.json)
Compare runs:  python evaluate.py compare runs/a runs/b --out comparison
              python evaluate.py compare runs/a runs/b --metrics likelihood
A read-only run directory: python evaluate.py --run /shared/a --out a; python evaluate.py compare a runs/b
Data that have moved since training: python evaluate.py --run runs/x --data NEW_PATH

Models have more options than those below, such as --steps 25; --help with --run lists them.
"""

import os
import signal

if __name__ == '__main__':  # Ctrl-C while the modules below are imported
  signal.signal(signal.SIGINT, lambda *_: (os.write(2, b'SIGINT: ended.\n'), os._exit(130)))

import functools
import re
import sys
import time
from pathlib import Path
from typing import Any

import jax
from absl import logging
from jax.sharding import Mesh

from genjax import parallel
from genjax.build import as_spec
from genjax.commandline import Parser, check_guide, open_run, options_help, parse_options, parse_run, parse_value, run_parser
from genjax.conditioners import class_label
from genjax.data import contents
from genjax.data.generated import match, open_generated
from genjax.data.photos import MAX_SIDE
from genjax.data.sources.base import Source
from genjax.data.sources.open import is_known
from genjax.errors import DataError, UsageError
from genjax.files import check_writable, write_whole, writing
from genjax.images import save_grid
from genjax.memory import check_images
from genjax.metrics import card, card_files, compare, report, tables
from genjax.metrics.classifier import recipe_for
from genjax.metrics.collapse import CollapseMonitor, overfitting_warning
from genjax.metrics.counting import evaluations
from genjax.metrics.evaluation import draw, read_samples
from genjax.metrics.evaluator import Evaluator, class_notes, first_images, matches_frequencies
from genjax.metrics.extractors import cache_folder, open_classifier, open_metric
from genjax.metrics.likelihood import likelihood
from genjax.metrics.modes import open_features
from genjax.metrics.reference import real_images, reference
from genjax.objectives.gan.gan import AdversarialGame
from genjax.optim import gamma_of_std
from genjax.run import Run, average_of
from genjax.signals import OnInterrupt, exit_on_interrupt
from genjax.types import HasLikelihood, HasNoLikelihood

ON_INTERRUPT = OnInterrupt('stopped.')


def main(argv: list[str]) -> None:
  if argv[:1] == ['compare']:
    return compare_runs(argv[1:])
  parser = run_parser(__doc__)
  parser.add_argument('--images', help='instead of --run: a folder of images, or an npz file with the arrays image and label')
  parser.add_argument(
    '--data',
    help='with --images: the real images, as data.name in a config: digits, a folder, an npz file, ...; '
    'with --run: the new path of its training data, if they have moved',
  )
  parser.add_argument('--resolution', type=int, help='with --images: resize --images and --data (default: that of --images)')
  parser.add_argument(
    '--channels', type=int, help='with --images: convert --images and --data to 1 grayscale, 3 RGB (default: unchanged)'
  )
  parser.add_argument('--data_dir', help='folder of TensorFlow Datasets (with --run: the folder used in training)')
  parser.add_argument('--metrics', default='all', help='all (default), or only likelihood, on the test split')
  parser.add_argument('--samples', type=int, help='number of samples, or of --images (10000, or all if fewer)')
  parser.add_argument('--seeds', default='0', help='sampling seeds, such as 0,1,2; one evaluation per seed (0)')
  parser.add_argument(
    '--features', default='classifier', help='classifier (default), inception, efficientnet_lite0, or a custom function a.b.c'
  )
  parser.add_argument(
    '--metric',
    action='append',
    default=[],
    help='a custom metric a.b.c, a function of samples and real images, uint8 [N, H, W, C]',
  )
  parser.add_argument('--weights', default='', help='weights of inception or efficientnet_lite0')
  parser.add_argument('--split', default='', help='split of the real images (train)')
  parser.add_argument('--reference_images', type=int, default=0, help='maximum number of real images of each split (0: all)')
  parser.add_argument('--cas', action='store_true', help='also train a classifier on the samples, and test it on real images')
  parser.add_argument(
    '--likelihood',
    type=int,
    help='number of test images for the likelihood (all; 0 if it is expensive, as for diffusion models)',
  )
  parser.add_argument(
    '--estimator', default='', help='estimator of the likelihood: elbo, iwae_50, ode, bound, ... (default: the first)'
  )
  parser.add_argument(
    '--out', default='', help='a folder for cards and images (the run directory; with --images evaluation/NAME)'
  )
  args, rest = parser.parse_known_args(argv)
  try:
    if args.images is not None:
      return evaluate_images(parser, args, rest)
    if ',' not in (args.ema or ''):
      return evaluate_run(parser, argv)
    return evaluate_widths(parser, argv, args.ema.split(','))
  except DataError as error:
    raise UsageError(error.in_evaluation) from None


def evaluate_widths(parser: Parser, argv: list[str], widths: list[str]) -> None:
  """Evaluates several post-hoc EMAs of a run, and plots FID against their widths."""
  words = [word for word in argv if not word.startswith('--ema=')]
  if '--ema' in words:
    del words[words.index('--ema') : words.index('--ema') + 2]
  for width in widths:
    gamma_of_std(parse_value('--ema', width, 0.1))  # raises UsageError before the first evaluation
  for width in widths:
    evaluate_run(parser, [*words, f'--ema={width}'])
  args, _ = parser.parse_known_args(words)
  if args.help or args.metrics != 'all':
    return
  folder = Path(args.out or args.run).expanduser()
  for name, png in report.ema_curves(card_files.load(folder)).items():
    write_whole(folder / 'evaluation' / name, png)
    print(f'{folder / "evaluation" / name}: FID against the width of the average')


def evaluate_run(parser: Parser, argv: list[str]) -> None:
  """Evaluates samples of a run, its likelihood, or both."""
  parsed = parse_run(parser, argv)
  if parsed is None:
    return
  args, rest = parsed
  for name in IMAGES_OPTIONS:
    if getattr(args, name) is not None:
      raise UsageError(f'--{name} has no effect without --images; remove it.')
  parallel.use_compilation_cache()
  logging.set_verbosity(logging.ERROR)  # Orbax's warnings
  path = Path(args.run).expanduser()
  if path.exists() and not (path / 'config.json').is_file():
    raise UsageError(
      f'{args.run} is not a run directory: it has no config.json. Evaluate external images with '
      f'--images {args.run} --data NAME.'
    )
  run = open_run(args)
  if args.help:
    return print(parser.format_help() + options_help(run))
  if args.metrics not in ('all', 'likelihood'):
    raise UsageError(f'--metrics {args.metrics} must be all or likelihood.')
  only_likelihood = args.metrics == 'likelihood'
  for name in SAMPLE_OPTIONS if only_likelihood else ():
    if getattr(args, name) != parser.get_default(name):
      raise UsageError(f'--{name} has no effect with --metrics likelihood; remove it.')
  options = run.checked(run.options | parse_options(rest, run.options, vars(args), args.allow_package))
  if only_likelihood and rest:
    raise UsageError(f'{rest[0]} has no effect with --metrics likelihood; remove it.')
  check_guide(args.guide, options)
  seeds = parse_seeds(args.seeds)
  args.samples = 10_000 if args.samples is None else args.samples
  check_counts(args)
  check_images(min(args.batch_size, args.samples), run.config['data']['image_shape'], '--batch_size', jax.device_count())
  out = card_files.open_folder(run.path, run.config, args.out)
  location = {'run': str(run.path.resolve())} if args.out else {}

  # Real images.
  mesh = parallel.make_mesh()
  data = contents.options(run.config['data'])
  if data.get('source'):
    for name in ('data', 'data_dir'):
      if getattr(args, name) is not None:
        raise UsageError(
          f'--{name} has no effect: {run.path} has data.source, whose parameters say where its data are. Remove it.'
        )
  data |= {name: value for name, value in (('name', args.data), ('data_dir', args.data_dir)) if value is not None}
  train, test = open_trained_on(run, data, args.allow_package)
  contents.check_same(run.path, run.config['data'], train, data.get('name', ''))
  check_split(args, test)
  if args.cas and not (run.classes and test):
    raise UsageError('--cas needs a class-conditional model and data with labels and a test split.')
  images = likelihood_images(args.likelihood, run.objective, test, only_likelihood)
  estimator = likelihood_estimator(args.estimator, run.objective)
  if args.estimator and not images:
    raise UsageError(f'--estimator {args.estimator} needs a number of test images: add --likelihood 500.')
  average = average_of(run.config['train'], args.allow_package) if run.ema is True else None
  model = card.model(run.path, run.step, run.config['train'], average, run.objective, best=args.best)
  model |= {} if isinstance(run.ema, bool) else {'ema_std': run.ema}
  model |= {'guide': {'run': str(run.guide.path), 'step': run.guide.step}} if run.guide else {}
  if only_likelihood:
    begin = time.perf_counter()
    nats = likelihood(run.objective, run.variables, test, mesh, images, estimator, args.batch_size)
    protocol = card.likelihood_protocol(estimator, likelihood_kind(run.objective, estimator), test, images)
    cost = {'seconds': round(time.perf_counter() - begin, 3)} | card.training_cost(run.path, run.step)
    result = {'metrics': nats, 'protocol': protocol, 'model': model, 'cost': cost, **location, **card.environment()}
    print(card.likelihood_table(result))
    return print(card_files.save_likelihood(out, result))

  # One card per seed.
  real = test if args.split == 'test' else train
  labels = card.origin_of_labels(run.objective.conditioner, real.num_classes, args.split)
  evaluator = open_evaluator(args, data, train, test, mesh, labels, isinstance(run.objective, AdversarialGame))
  floor = card.fid_floor(evaluator.real, args.samples, labels == card.AS_REFERENCE)
  network_evaluations = evaluations(run.objective, run.variables, options, train)
  begin = time.perf_counter()
  nats = likelihood(run.objective, run.variables, test, mesh, images, estimator, args.batch_size) if images else {}
  once = {'likelihood_seconds': round(time.perf_counter() - begin, 3)} if images else {}
  kind = f'{likelihood_kind(run.objective, estimator)}, {images} of the test split' if images else None
  monitor = None
  if isinstance(run.objective, AdversarialGame):
    monitor = CollapseMonitor(run.objective, train, test, mesh, options=options)
  for number, seed in enumerate(seeds):
    if number:
      written, left = (','.join(map(str, part)) for part in (seeds[:number], seeds[number:]))
      ON_INTERRUPT.text = f'stopped. Cards are written for --seeds {written}; pass --seeds {left} for the others.'
    begin = time.perf_counter()
    samples = draw(
      run.objective,
      run.variables,
      evaluator.extractor,
      evaluator.real,
      mesh,
      args.samples,
      seed,
      options,
      args.batch_size,
      real,
    )
    extra_metrics, notes = nats, []
    if monitor:
      variables = jax.device_put(run.variables, parallel.replicated(mesh))
      collapse_metrics = monitor(variables, seed)
      extra_metrics = nats | {f'collapse_{k}': v for k, v in collapse_metrics.items()}
      notes = [text] if (text := overfitting_warning(collapse_metrics)) else []
    result = evaluator.measure(samples, args.samples, floor, extra_metrics, notes) | location
    written = {name: as_spec(value) for name, value in options.items()}
    result['model'] = model | {'likelihood': kind, 'options': written, 'evaluations': network_evaluations, 'seed': seed}
    result['cost'] = samples.cost | once | {'seconds': round(time.perf_counter() - begin, 3)}
    result['cost'] |= card.training_cost(run.path, run.step)
    evaluator.save(out / 'evaluation', result, samples)


def open_trained_on(run: Run, data: dict[str, Any], allow: list[str]) -> tuple[Source, Source | None]:
  """The training images of a run and their test split, opened by the options `data`; errors explain how to open moved data."""
  try:
    return real_images(allow=allow, **data)
  except UsageError as error:
    option, name = ('--data_dir', 'data_dir') if is_known(data.get('name', '')) else ('--data', 'name')
    if not data.get(name) or os.path.exists(os.path.expanduser(data[name])):
      raise
    can_record = 'hash' in run.config['data']
    record = f' To record it, repeat the train.py command of the run with --config.data.{name}=NEW.' if can_record else ''
    raise UsageError(f'{error}\nIf the data of {run.path} have moved, add {option} NEW, their new path.{record}') from None


def open_evaluator(
  args, data: dict[str, Any], train: Source, test: Source | None, mesh: Mesh, labels: str, is_gan: bool = False
) -> Evaluator:
  """The evaluator that the command line specifies, with the real images of `open_data(**data)`."""
  extractor = open_features(args.features, args.weights, train, test, data, args.allow_package)
  options = {'images': args.reference_images, 'batch_size': args.batch_size}
  view = functools.partial(reference, extractor=extractor, mesh=mesh, cache=cache_folder(), **options)
  training, held_out = view(train, data['split']), test and view(test, 'test')
  real = held_out if args.split == 'test' else training
  cas = open_classifier(train, test, recipe_for(train)).details if args.cas else None
  custom = {name: open_metric(name, args.allow_package) for name in args.metric}
  return Evaluator(data, train, test, extractor, training, held_out, real, custom, cas, labels, is_gan)


IMAGES_OPTIONS = ('resolution', 'channels')  # only with --images
SAMPLE_OPTIONS = ('samples', 'seeds', 'features', 'metric', 'weights', 'split', 'reference_images', 'cas')  # draw samples
RUN_OPTIONS = (  # not with --images
  'run',
  'step',
  'best',
  'guide',
  'guide_step',
  'no_ema',
  'ema',
  'metrics',
  'seeds',
  'likelihood',
  'estimator',
)


def evaluate_images(parser: Parser, args, rest: list[str]) -> None:
  """Evaluates external images like the samples of a run, with all metrics that need no model."""
  if args.help:
    return print(parser.format_help())
  unsupported = [f'--{name}' for name in RUN_OPTIONS if getattr(args, name) != parser.get_default(name)] + rest
  if unsupported:
    raise UsageError(f'{unsupported[0]} has no effect with --images, which does not draw samples; remove it.')
  if not args.images:
    raise UsageError('--images is empty: set it to a folder of images or an npz file.')
  if not args.data:
    raise UsageError(
      '--images needs real images to compare with: add --data NAME, where NAME is a data set, a folder or an .npz file.'
    )
  if (Path(args.data).expanduser() / 'config.json').is_file():
    raise UsageError(f'--data {args.data} is a run directory: use its training data instead (data.name in its config).')
  if args.resolution is not None and not 1 <= args.resolution <= MAX_SIDE:
    raise UsageError(f'--resolution {args.resolution} must be from 1 to {MAX_SIDE:,} pixels.')
  if args.channels not in (None, 1, 3):
    raise UsageError(f'--channels {args.channels} must be 1 (grayscale) or 3 (RGB).')
  check_counts(args)
  path = Path(args.images).expanduser()
  out = Path(args.out or Path('evaluation') / path.resolve().name.removesuffix('.npz')).expanduser()
  if out.resolve().is_relative_to(path.resolve()):
    raise UsageError(f'--out {out} is inside the folder of the images; use another folder.')
  if (out / 'config.json').exists():
    raise UsageError(f'--out {out} is a run directory; use another folder.')
  check_writable(out, 'use another folder with --out DIR')
  parallel.use_compilation_cache()
  begin = time.perf_counter()
  mesh = parallel.make_mesh()
  generated = open_generated(path, args.resolution or 0, args.channels or 0)
  data = {'name': args.data, 'resolution': args.resolution or generated.source.image_shape[0]}
  data |= {'channels': args.channels or 0, 'data_dir': args.data_dir or '', 'split': 'train'}
  train, test = real_images(**data)
  source, notes = match(generated, train)
  check_split(args, test)
  if args.cas and not (source.num_classes and test):
    reason = f' Note: {notes[0]}.' if notes else ''
    raise UsageError(f'--cas needs images with labels, and data with labels and a test split.{reason}')
  count = min(10_000, len(source)) if args.samples is None else args.samples
  if len(source) < 100:
    raise UsageError(f'{source.name} has {len(source)} images, but metrics need at least 100.')
  if count > len(source):
    raise UsageError(f'--samples {count} must not exceed the {len(source)} images of {source.name}.')
  evaluator = open_evaluator(args, data, train, test, mesh, card.OF_IMAGES if source.num_classes else card.NO_LABELS)
  samples = read_samples(source, evaluator.extractor, evaluator.real, mesh, count, args.batch_size)
  notes += class_notes(samples.labels, evaluator.real.classes)
  floor = card.fid_floor(evaluator.real, count, matches_frequencies(samples.labels, evaluator.real.classes))
  result = evaluator.measure(samples, count, floor, {}, notes)
  result['model'] = card.external_model(path, source)
  result['cost'] = samples.cost | {'seconds': round(time.perf_counter() - begin, 3)}
  grid = card_files.grid_path(evaluator.save(out, result, samples))
  save_grid(grid, *first_images(samples, source.num_classes))
  print(f'{grid}: the first images')


def compare_runs(argv: list[str]) -> None:
  """Writes table.md and table.csv, the figures, a grid of each run, and index.html, which contains all of them."""
  parser = Parser(prog='evaluate.py compare', description='Compare runs that were evaluated by the same protocol.')
  parser.add_argument('runs', nargs='+', type=Path, help='run directories that evaluate.py has evaluated')
  parser.add_argument('--out', type=Path, default=Path('comparison'), help='the folder of the results (comparison)')
  parser.add_argument(
    '--features',
    default='',
    help='compare evaluations with these features (default: those that all runs have, with the most samples)',
  )
  parser.add_argument(
    '--sort', default='', help='sort by this metric, such as fid, the best row first (default: the order of the runs)'
  )
  parser.add_argument('--baseline', default='', help='the row that the others are compared with (default: the first)')
  parser.add_argument(
    '--metrics', default='all', choices=['all', 'likelihood'], help='all, or likelihood: only a table of likelihoods (all)'
  )
  parser.add_argument('--allow_package', action='append', default=[], help='another package that the runs may use')
  args = parser.parse_args(argv)
  if args.metrics == 'likelihood':
    return print(tables.markdown(tables.likelihoods(args.runs)))
  check_writable(args.out, 'use another folder with --out DIR')
  rows = compare.make_rows(args.runs, args.features)
  baseline, metric = compare.find_row(rows, args.baseline), args.sort or 'fid'
  rows = compare.sort_rows(rows, metric) if args.sort else rows
  differences = tables.difference_table(rows, baseline, metric)
  pictures = report.figures(rows) | report.curves(rows) | report.grids(rows, args.allow_package)
  text = tables.markdown(tables.table(rows, baseline)) + '\n'
  text += f'{tables.markdown(differences)}\n' if differences else ''
  text += '\n\n'.join(tables.legend(rows, baseline)) + '\n'
  html = report.page(' and '.join(compare.short_names(args.runs)), rows, pictures, differences, baseline)
  if (args.out / 'index.html').exists():  # of other rows
    for old in args.out.glob('grid_[0-9]*_*.png'):
      with writing(old):
        old.unlink()
  write_whole(args.out / 'table.md', text)
  write_whole(args.out / 'table.csv', tables.csv_table(rows))
  write_whole(args.out / 'index.html', html)
  for name, data in pictures.items():
    write_whole(args.out / f'{re.sub("[^a-zA-Z0-9.]+", "_", name.split(",")[0]).strip("_")}.png', data)
  print(text)
  print(args.out / 'index.html')


def check_counts(args) -> None:
  """Raises UsageError for numbers of images that are out of range."""
  if args.samples is not None and not 100 <= args.samples < 2**31:
    raise UsageError(f'--samples {args.samples} must be from 100 to {2**31 - 1}.')
  if args.reference_images and args.reference_images < 100:
    raise UsageError(f'--reference_images {args.reference_images} must be 0 (all), or at least 100.')
  if args.batch_size < 1:
    raise UsageError(f'--batch_size {args.batch_size} must be 1 or more.')


def check_split(args, test: Source | None) -> None:
  """Sets the default of --split, train, and raises UsageError for a split that the data do not have."""
  args.split = args.split or 'train'
  if args.split not in ('train', 'test') or (args.split == 'test' and not test):
    raise UsageError(f'--split {args.split}: the data have {"train and test" if test else "only train"}.')


def likelihood_images(requested: int | None, objective, test, only_likelihood: bool = False) -> int:
  """The number of test images for the likelihood. `only_likelihood`: no other metric is computed."""
  most, has = len(test) if test else 0, isinstance(objective, HasLikelihood)
  if (requested or only_likelihood) and not has:
    why = objective.no_nll if isinstance(objective, HasNoLikelihood) else 'it has no density'
    option = '--metrics likelihood' if only_likelihood else f'--likelihood {requested}'
    raise UsageError(f'{option}: {type(objective).__name__} has no likelihood: {why}. Remove the option.')
  if only_likelihood and not test:
    raise UsageError('--metrics likelihood needs data with a test split.')
  if requested is None:
    expensive = has and objective.nll_is_expensive
    if only_likelihood and expensive:
      raise UsageError('--metrics likelihood is expensive for this model: set the number of images with --likelihood 500.')
    return most if has and not expensive else 0
  if only_likelihood and not requested:
    raise UsageError('--metrics likelihood needs images: --likelihood must be above 0.')
  if not 0 <= requested <= most:
    raise UsageError(f'--likelihood {requested} must be from 0 to {most}, the number of test images.')
  return requested


def likelihood_kind(objective, estimator: str) -> str:
  """Describes the estimator, and the images that the likelihood refers to."""
  return objective.estimators[estimator] + (', given their labels' if class_label(objective.conditioner) else '')


def likelihood_estimator(requested: str, objective) -> str:
  """The name of an estimator of the objective; '' if it has no likelihood."""
  known = objective.estimators if isinstance(objective, HasLikelihood) else {}
  if requested and requested not in known:
    more = ' and iwae_k of any k from 1 to 999,999' if 'iwae_50' in known else ''
    raise UsageError(f'--estimator {requested}: {type(objective).__name__} has {", ".join(known) or "no likelihood"}{more}.')
  return requested or next(iter(known), '')


def parse_seeds(text: str) -> list[int]:
  """'0,1,2' -> [0, 1, 2]."""
  try:
    seeds = [int(part) for part in text.split(',')]
  except ValueError:
    seeds = [-1]
  if not all(0 <= seed < 2**32 for seed in seeds) or len(set(seeds)) < len(seeds):
    raise UsageError(f'--seeds {text} must be different integers from 0, such as 0,1,2.')
  return seeds


if __name__ == '__main__':
  exit_on_interrupt(ON_INTERRUPT)
  try:
    main(sys.argv[1:])
  except UsageError as error:
    sys.exit(f'error: {error}')
