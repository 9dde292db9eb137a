"""Makes metrics.npz: FID, KID, Inception Score, precision and recall by torch-fidelity, torchmetrics and pytorch-fid.

Made with Python 3.11, torch 2.13.0, torch-fidelity 0.4.0 and pytorch-fid 0.3.0 (both installed without dependencies),
torchmetrics 1.9.0, numpy 2.4.6 and scipy 1.17.1. There must be no torchvision: stand-ins are imported in its place.

  python make_metrics.py metrics.npz
"""

import sys
import types
import warnings
from importlib.util import find_spec

import lightning_utilities.core.imports as requirements  # torchmetrics asks it what is installed
import numpy as np
import torch


class Absent(types.ModuleType):
  """Stands for a module of torchvision: any name in it is a class."""

  def __getattr__(self, name):
    if name.startswith('__'):
      raise AttributeError(name)
    return object


for name in ('', '.datasets', '.models', '.models.inception', '.models.utils', '.transforms', '.transforms.functional'):
  sys.modules['torchvision' + name] = module = Absent('torchvision' + name)
  parent, _, child = module.__name__.rpartition('.')
  if parent:
    setattr(sys.modules[parent], child, module)
requirements.find_spec = lambda name: None if name == 'torchvision' else find_spec(name)

from pytorch_fid.fid_score import calculate_frechet_distance  # noqa: E402
from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric  # noqa: E402
from torch_fidelity.metric_isc import isc_features_to_metric  # noqa: E402
from torch_fidelity.metric_kid import kernel_mmd, kid_features_to_metric  # noqa: E402
from torch_fidelity.metric_prc import prc_features_to_metric  # noqa: E402
from torchmetrics.image.fid import FrechetInceptionDistance  # noqa: E402
from torchmetrics.image.inception import InceptionScore  # noqa: E402
from torchmetrics.image.kid import poly_mmd  # noqa: E402


def inputs():
  """Features of real and fake images, and probabilities of classes; features are multiples of 1/1024, to compress."""
  r = np.random.default_rng(0)
  n, d = 1500, 24
  real = np.abs(r.normal(size=(n, d)) @ (np.eye(d) + r.normal(size=(d, d)) / 5)) ** 0.7
  fake = np.abs(r.normal(size=(n, d)) @ (0.8 * np.eye(d) + r.normal(size=(d, d)) / 4) + 0.3) ** 0.7 + 0.1
  p = np.exp(2 * r.normal(size=(n, 10)))
  features = [(np.round(x * 1024) / 1024).astype(np.float32) for x in (real, fake)]
  return *features, (p / p.sum(axis=1, keepdims=True)).astype(np.float32)


def main():
  warnings.simplefilter('ignore')
  real, fake, p = inputs()
  result = dict(real=real, fake=fake, probabilities=p)
  r, f, log_p = torch.from_numpy(real).double(), torch.from_numpy(fake).double(), torch.from_numpy(p).double().log()

  statistics = [fid_features_to_statistics(x) for x in (f, r)]  # generated images come first, as torch-fidelity asks
  result['fid_torch_fidelity'] = fid_statistics_to_metric(*statistics, verbose=False)['frechet_inception_distance']
  result['fid_pytorch_fid'] = calculate_frechet_distance(*(s[k] for s in statistics for k in ('mu', 'sigma')))
  identity = torch.nn.Identity()
  identity.num_features = real.shape[1]
  metric = FrechetInceptionDistance(feature=identity)
  metric.update(r, real=True)
  metric.update(f, real=False)
  result['fid_torchmetrics'] = metric.compute()

  actual = kid_features_to_metric(f, r, kid_subsets=20, kid_subset_size=300, rng_seed=2020, verbose=False)
  result['kid_mean'], result['kid_std'] = (actual[f'kernel_inception_distance_{s}'] for s in ('mean', 'std'))
  random = np.random.RandomState(2020)  # torch-fidelity's draws: fake, real, fake, real...
  draws = [[random.choice(len(x), 300, replace=False) for x in (fake, real)] for _ in range(20)]
  result['kid_fake_indices'], result['kid_real_indices'] = np.array(draws).astype(np.int16).swapaxes(0, 1)
  result['kid_subset_values'] = [kernel_mmd(f.numpy()[i], r.numpy()[j]) for i, j in draws]
  np.testing.assert_allclose(np.mean(result['kid_subset_values']), result['kid_mean'], rtol=1e-13)
  result['mmd_torchmetrics'] = poly_mmd(r[:300], f[:300])

  actual = prc_features_to_metric(f, r, prc_neighborhood=3, verbose=False)
  result['precision'], result['recall'] = actual['precision'], actual['recall']

  for kind, splits, shuffle in (('', 10, False), ('_shuffled', 10, True), ('_seven', 7, False)):
    actual = isc_features_to_metric(log_p, splits, shuffle, rng_seed=2020)
    result[f'isc_mean{kind}'], result[f'isc_std{kind}'] = (actual[f'inception_score_{s}'] for s in ('mean', 'std'))
  result['isc_shuffled_order'] = np.random.RandomState(2020).permutation(len(p)).astype(np.int16)
  torch.randperm = torch.arange  # torchmetrics always shuffles; its deviation is of a sample (n - 1), torch-fidelity's is not
  metric = InceptionScore(feature=torch.nn.Identity(), splits=10)
  metric.update(log_p)
  result['isc_mean_torchmetrics'], result['isc_std_torchmetrics'] = metric.compute()
  np.savez_compressed(sys.argv[1], **{k: np.asarray(v) for k, v in result.items()})


if __name__ == '__main__':
  main()
