"""A metric: how sharp samples are beside real images."""

import numpy as np


def relative_sharpness(samples, real):
  slope = lambda x: np.abs(np.diff(x.astype(np.float64), axis=2)).mean()  # noqa: E731
  return slope(samples) / slope(real)
