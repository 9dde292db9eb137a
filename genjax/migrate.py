"""Rewrites the config of an earlier version for this one: `python -m genjax.migrate PATH`.

PATH is a run directory, or a config file (.py). Runs need no rewriting to be opened; see genjax/schema.py.
"""

import argparse
import ast
import sys
from pathlib import Path

from genjax.errors import UsageError
from genjax.files import write_json, write_whole
from genjax.schema import FIELDS, SCHEMA, class_name, migrate
from genjax.workdir import raw_config

OBJECTIVE = {'num_classes': "conditioner=spec('conditioners.ClassLabel')", 'label_dropout': 'cond_dropout'}


def migrate_file(text: str) -> tuple[str, list[str]]:
  """A config file with present names, and the lines that a person must look at.

  Rewritten are names of classes in strings, and keywords of `spec(...)` whose class is a string.
  """
  edits, notes = [], []
  lines = text.splitlines(keepends=True)
  starts = [0]
  for line in lines:
    starts.append(starts[-1] + len(line.encode()))
  renamed = {old for fields in FIELDS.values() for old in fields}
  for node in ast.walk(ast.parse(text)):
    if isinstance(node, ast.Constant) and isinstance(node.value, str) and (new := class_name(node.value)) != node.value:
      edits.append((starts[node.lineno - 1] + node.col_offset, starts[node.end_lineno - 1] + node.end_col_offset, repr(new)))
    if isinstance(node, ast.Call) and getattr(node.func, 'id', '') == 'spec' and node.args:
      fields = FIELDS.get(class_name(getattr(node.args[0], 'value', None)), {})
      for keyword in node.keywords:
        if fields.get(keyword.arg) == '':
          notes.append(f'line {keyword.lineno}: {class_name(node.args[0].value)} has no field {keyword.arg!r} any more.')
        elif keyword.arg in fields:
          start = starts[keyword.lineno - 1] + keyword.col_offset
          edits.append((start, start + len(keyword.arg.encode()), fields[keyword.arg]))
    if isinstance(node, ast.keyword) and node.arg in ('num_classes', 'label_dropout'):
      notes.append(f'line {node.lineno}: {node.arg} = ... is now {OBJECTIVE[node.arg]}.')
    if isinstance(node, ast.Attribute) and node.attr in renamed and isinstance(node.ctx, ast.Store):
      notes.append(f'line {node.lineno}: .{node.attr} = ... may have another name now.')
  data = text.encode()
  for start, end, new in sorted(edits, reverse=True):
    data = data[:start] + new.encode() + data[end:]
  return data.decode(), notes


def main(argv: list[str]) -> None:
  parser = argparse.ArgumentParser(prog='python -m genjax.migrate', description=__doc__)
  parser.add_argument('path', type=Path, help='a run directory, or a config file')
  path = parser.parse_args(argv).path
  if path.suffix == '.py' and path.is_file():
    try:
      text, notes = migrate_file(path.read_text())
    except (SyntaxError, UnicodeDecodeError) as error:
      raise UsageError(f'{path} is not a Python file ({error}).') from None
    changed = text != path.read_text()
    if changed:
      write_whole(path, text)
    for note in notes:
      print(f'{path}: {note}')
    print(f'{path}: {"rewritten" if changed else "unchanged"}.')
    return
  config = raw_config(path)
  old = config.get('schema', 1)
  if old == SCHEMA:
    print(f'{path} has schema {SCHEMA} already.')
    return
  write_json(path / 'config.json', migrate(config))
  print(f'{path}/config.json: schema {old} -> {SCHEMA}.')


if __name__ == '__main__':
  try:
    main(sys.argv[1:])
  except UsageError as error:
    sys.exit(f'error: {error}')
