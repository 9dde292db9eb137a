"""notebooks/: as they are committed; with -m slow, they are executed as Jupyter executes them, in a copy of the tree."""

import json
import os
import re
import shutil
import subprocess
import sys

import pytest

from tests.conftest import ROOT
from tests.test_docs import NOT_COPIED, TESTS_ONLY

NOTEBOOKS = sorted((ROOT / 'notebooks').glob('*.ipynb'))
PICTURES = {  # in the outputs
  'ablation': 1, 'gan_latents_and_collapse': 6, 'solvers_and_guidance': 6, 'train_and_sample': 4, 'vae_and_likelihood': 6
}  # fmt: skip


def outputs(path) -> list[dict]:
  return [output for cell in json.loads(path.read_text())['cells'] for output in cell.get('outputs', [])]


def pictures(path) -> int:
  return sum('image/png' in output.get('data', {}) for output in outputs(path))


def test_all_notebooks_are_here():
  assert [path.stem for path in NOTEBOOKS] == sorted(PICTURES)


@pytest.mark.parametrize('path', NOTEBOOKS, ids=lambda path: path.stem)
def test_committed_notebooks_were_executed_in_order(path):
  cells = [cell for cell in json.loads(path.read_text())['cells'] if cell['cell_type'] == 'code']
  assert [cell['execution_count'] for cell in cells] == list(range(1, len(cells) + 1))
  assert 'Colab, not tested' in ''.join(cells[0]['source'])
  assert pictures(path) == PICTURES[path.stem]
  assert not [output for output in outputs(path) if output['output_type'] == 'error' or output.get('name') == 'stderr']
  assert not re.findall(r'/(?:root|home|tmp|work)/\S*', path.read_text())


@pytest.mark.slow
@pytest.mark.parametrize('path', NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_run(path, tmp_path):
  pytest.importorskip('nbconvert', reason='pip install -r requirements-dev.txt')
  tree = tmp_path / 'genjax'
  shutil.copytree(ROOT, tree, ignore=NOT_COPIED)
  words = [sys.executable, '-m', 'nbconvert', '--to=notebook', '--execute', '--output=executed', str(path.name)]
  env = {name: value for name, value in os.environ.items() if name not in TESTS_ONLY}
  done = subprocess.run(words, cwd=tree / 'notebooks', env=env, capture_output=True, text=True)
  assert not done.returncode, done.stderr[-3000:]
  assert pictures(tree / 'notebooks' / 'executed.ipynb') == PICTURES[path.stem]
