"""Export a trained model to copy or publish it: python export.py --run runs/x --out exports/x

Writes the weights as safetensors, the config, the cards of evaluate.py and a README.md. sample.py, evaluate.py and genjax.load
open an export like a run. --stablehlo adds the sampler in a form that runs without genjax.

With --stablehlo, options of the model, such as --steps 25, set those of the exported sampler; --help with --run lists them.
"""

import sys

from absl import logging

from genjax.commandline import open_run, options_help, parse_options, parse_run, run_parser
from genjax.errors import UsageError
from genjax.signals import OnInterrupt, exit_on_interrupt


def main(argv: list[str]) -> None:
  parser = run_parser(__doc__)
  parser.add_argument('--out', help='the folder of the export: new or empty')
  parser.add_argument('--stablehlo', action='store_true', help='also export the sampler, for CPU, CUDA and TPU')
  parser.add_argument('--half', action='store_true', help='store the weights as float16')
  parsed = parse_run(parser, argv)
  if parsed is None:
    return
  args, rest = parsed
  logging.set_verbosity(logging.ERROR)  # Orbax's warnings
  run = open_run(args)
  if args.help:
    return print(parser.format_help() + options_help(run))
  if not args.out:
    raise UsageError('--out is missing: add --out DIR, a new or empty folder.')
  folder = run.export(args.out, args.stablehlo, args.half, **parse_options(rest, run.options, vars(args), args.allow_package))
  for path in sorted(folder.rglob('*')):
    if path.is_file():
      print(f'{path}: {path.stat().st_size:,} bytes')


if __name__ == '__main__':
  exit_on_interrupt(OnInterrupt('stopped.'))
  try:
    main(sys.argv[1:])
  except UsageError as error:
    sys.exit(f'error: {error}')
