"""Inception score (Salimans et al. 1606.03498, section 4)."""

import numpy as np
from jaxtyping import Float


class RunningScore:
  """exp E_x KL(p(y|x) || p(y)) of `total` samples in `splits` consecutive parts, from batches, in constant memory.

  The same formula is used with classifiers other than Inception-V3; the score is between 1 and the number of classes K.
  """

  def __init__(self, total: int, splits: int = 10):
    self.total, self.splits, self.seen = total, splits, 0
    self.count = np.zeros(splits)
    self.negative_entropy = np.zeros(splits)  # sum of p log p
    self.marginal = None

  def add(self, probabilities: Float[np.ndarray, 'b k']) -> None:
    """Adds the next samples, in order."""
    p = np.asarray(probabilities, np.float64)
    if self.marginal is None:
      self.marginal = np.zeros((self.splits, p.shape[1]))
    starts = np.arange(self.splits) * self.total // self.splits
    part = np.searchsorted(starts, self.seen + np.arange(len(p)), side='right') - 1
    np.add.at(self.count, part, 1)
    np.add.at(self.negative_entropy, part, xlogx(p).sum(axis=1))
    np.add.at(self.marginal, part, p)
    self.seen += len(p)

  def result(self) -> tuple[float, float]:
    """Mean and standard deviation over the parts."""
    marginal = self.marginal / self.count[:, None]
    scores = np.exp(self.negative_entropy / self.count - xlogx(marginal).sum(axis=1))
    return float(scores.mean()), float(scores.std())


def xlogx(p: Float[np.ndarray, '*n']) -> Float[np.ndarray, '*n']:
  """p log p, 0 at 0."""
  return p * np.log(np.where(p > 0, p, 1))
