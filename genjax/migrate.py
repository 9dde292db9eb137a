"""Rewrites the config of an earlier version for this one: `python -m genjax.migrate PATH`.

PATH is a run directory, or a config file (.py). Runs need no rewriting to be opened; see genjax/schema.py.
"""

import ast
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from genjax.build import resolve
from genjax.commandline import Parser
from genjax.errors import UsageError
from genjax.files import write_json, write_whole
from genjax.schema import FIELDS, MODULES, SCHEMA, SOLVERS, class_name, migrate
from genjax.workdir import raw_config

OBJECTIVE = {'num_classes': "conditioner=spec('conditioners.ClassLabel')", 'label_dropout': 'cond_dropout'}


def migrate_file(text: str) -> tuple[str, list[str]]:
  """A config file with the current names, and notes about lines that need manual changes.

  Rewrites names of classes in strings, and keywords of `spec(...)` whose class is a string.
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
    if isinstance(node, ast.Import | ast.ImportFrom):
      names = [node.module or ''] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
      for name in names:
        if (new := MODULES.get(name.removeprefix('genjax.'))) and name.startswith('genjax.'):
          notes.append(f'line {node.lineno}: the module {name} is now genjax.{new}.')
    for name in set(options_in(node)):
      if name in OBJECTIVE:
        notes.append(f'line {node.lineno}: {name} is now {OBJECTIVE[name]}.')
      elif name in renamed and not isinstance(node, ast.keyword):
        notes.append(f'line {node.lineno}: the option {name} may have another name now.')
    if isinstance(node, ast.Constant) and node.value in SOLVERS:
      notes.append(f'line {node.lineno}: the solver {node.value!r} is now {SOLVERS[node.value]!r}.')
  data = text.encode()
  for start, end, new in sorted(edits, reverse=True):
    data = data[:start] + new.encode() + data[end:]
  return data.decode(), notes


def options_in(node: ast.AST) -> list[str]:
  """The names of options that a node sets: `name=...`, `x.name = ...`, `x['name'] = ...`, {'name': ...}."""
  if isinstance(node, ast.keyword):
    return [node.arg] if node.arg else []
  if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
    return [node.attr]
  if isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Store) and isinstance(node.slice, ast.Constant):
    return [node.slice.value]
  if isinstance(node, ast.Dict):
    return [key.value for key in node.keys if isinstance(key, ast.Constant)]
  return []


def unknown_classes(value: Any) -> list[str]:
  """The names of classes in a config that genjax does not have: of other packages, or misspelled."""
  if isinstance(value, list):
    return [name for item in value for name in unknown_classes(item)]
  if not isinstance(value, Mapping):
    return []
  names = [name for item in value.values() for name in unknown_classes(item)]
  try:
    if 'cls' in value:
      resolve(value['cls'])
  except UsageError:
    names.append(str(value['cls']))
  return names


def main(argv: list[str]) -> None:
  parser = Parser(__doc__, prog='python -m genjax.migrate')
  parser.add_argument('path', type=Path, help='a run directory, or a config file')
  path = parser.parse_args(argv).path
  path = path.parent if path.name == 'config.json' else path
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
  migrated = migrate(config)
  write_json(path / 'config.json', migrated)
  for name in dict.fromkeys(unknown_classes(migrated)):
    print(f'{path}/config.json: {name} is not a class of genjax and is left unchanged.')
  print(f'{path}/config.json: schema {old} -> {SCHEMA}.')


if __name__ == '__main__':
  try:
    main(sys.argv[1:])
  except UsageError as error:
    sys.exit(f'error: {error}')
