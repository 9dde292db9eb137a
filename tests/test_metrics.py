"""The mathematics of the metrics, against closed forms and other libraries' values."""

import math

import jax
import numpy as np
import pytest
from scipy.linalg import sqrtm
from scipy.spatial.distance import cdist

from genjax.data.prepare import read_idx
from genjax.metrics import fid
from genjax.metrics.fid import distance_from, estimate_floor, floor_coefficients, frechet_distance, infinity
from genjax.metrics.inception_score import RunningScore
from genjax.metrics.kid import kid, mmd2
from genjax.metrics.manifold import copies, manifold, nearest
from genjax.metrics.moments import Moments, RunningMoments, moments

RANDOM = np.random.default_rng


def gaussian(d, seed):
  """Moments of a random correlated Gaussian."""
  a = RANDOM(seed).normal(size=(d, d)) / math.sqrt(d)
  return Moments(10, RANDOM(seed + 100).normal(size=d), a @ a.T)


def draw(m, n, seed):
  return RANDOM(seed).multivariate_normal(m.mean, m.cov, n)


def test_fid_of_gaussians():
  a, b = gaussian(6, 0), gaussian(6, 1)
  closed = ((a.mean - b.mean) ** 2).sum() + np.trace(a.cov + b.cov - 2 * sqrtm(a.cov @ b.cov).real)
  assert frechet_distance(a, b) == pytest.approx(closed, rel=1e-10)
  assert frechet_distance(b, a) == pytest.approx(closed, rel=1e-10)
  assert frechet_distance(a, a) == pytest.approx(0, abs=1e-10)
  diagonal = lambda *v: Moments(10, np.zeros(len(v)), np.diag(np.array(v, float)))  # noqa: E731
  assert frechet_distance(diagonal(4, 9, 0), diagonal(1, 1, 0)) == pytest.approx((2 - 1) ** 2 + (3 - 1) ** 2)


def test_fid_of_fewer_samples_than_dimensions():
  a, b = (moments(RANDOM(seed).normal(size=(20, 50))) for seed in (0, 1))
  closed = (
    ((a.mean - b.mean) ** 2).sum() + np.trace(a.cov + b.cov) - 2 * np.sqrt(np.abs(np.linalg.eigvals(a.cov @ b.cov))).sum()
  )
  assert frechet_distance(a, b) == pytest.approx(closed, rel=1e-6)


def test_running_moments_are_those_of_all_at_once():
  x = (1000 + RANDOM(0).normal(size=(1000, 5)) @ RANDOM(1).normal(size=(5, 5))).astype(np.float32)  # far from 0
  running, whole = RunningMoments(5), moments(x)
  for start, end in ((0, 1), (1, 400), (400, 401), (401, 1000)):
    padded = np.concatenate([x[start:end], np.full((3, 5), 7, np.float32)])
    running.add(padded, np.arange(len(padded)) < end - start)
  actual = running.result()
  assert actual.n == 1000
  np.testing.assert_allclose(actual.mean, whole.mean, rtol=1e-14)
  np.testing.assert_allclose(actual.cov, whole.cov, rtol=1e-10)
  assert jax.numpy.zeros(()).dtype == np.float32  # 64 bits are not left switched on


def test_fid_is_biased_by_the_number_of_samples_and_its_extrapolation_is_not():
  a = gaussian(8, 0)
  b = Moments(10, a.mean + 0.05, a.cov * 1.05)
  counts = [200, 300, 400, 600, 800, 1000]
  actual = np.array([[frechet_distance(b, moments(draw(a, n, seed)[:n])) for n in counts] for seed in range(40)])
  true, error = frechet_distance(a, b), actual.std(axis=0) / math.sqrt(40)
  bias = actual.mean(axis=0) - true
  assert bias[0] > 4 * error[0]
  assert bias[0] > 2 * bias[-1]
  extrapolated = np.array([infinity(counts, row) for row in actual])
  assert abs(extrapolated.mean() - true) < 3 * extrapolated.std() / math.sqrt(40)
  assert abs(extrapolated.mean() - true) < 0.3 * bias[0]
  assert infinity([1, 2, 4], [3 + 2 / n for n in (1, 2, 4)]) == pytest.approx(3, abs=1e-12)


@pytest.mark.parametrize(('m', 'n'), [(500, 2000), (10_000, 2000)])
def test_the_floor_of_a_gaussian_is_the_closed_form(m, n):
  # Deviations of the mean and of the covariance from I: E FID = (d + d (d + 1) / 4) (1 / m + 1 / n) to second order.
  d = 12
  actual = estimate_floor(RANDOM(0).normal(size=(n, d)), None, n, m)
  assert actual.fid == pytest.approx((d + d * (d + 1) / 4) * (1 / m + 1 / n), rel=0.1)
  # And of n of which only a part was kept.
  assert estimate_floor(RANDOM(0).normal(size=(n, d)), None, 5 * n, m).fid == pytest.approx(51 * (1 / m + 0.2 / n), rel=0.1)


@pytest.mark.parametrize('n', [100, 300, 900, 4000])
def test_the_floor_is_the_fid_of_fresh_images(n):
  random, mix = RANDOM(0), RANDOM(1).normal(size=(16, 16)) / 4
  draw = lambda n: np.maximum(random.normal(size=(n, 16)) @ mix, 0).astype(np.float32)  # noqa: E731
  floors, actual = [], []
  for _ in range(12):
    real = draw(1000)
    floors.append(estimate_floor(real, None, 1000, n))
    actual.append(frechet_distance(moments(draw(n)), moments(real)))
  assert np.mean([f.fid for f in floors]) == pytest.approx(np.mean(actual), rel=0.12)
  assert np.mean([f.spread for f in floors]) == pytest.approx(np.std(actual, ddof=1), rel=0.6)


def test_the_floor_is_of_images_with_the_labels_of_the_reference():
  # Classes far apart: halves with other labels than the whole would have a far larger FID than samples with these labels.
  random, share = RANDOM(0), np.array([0.5, 0.3, 0.2])
  places = 5 * RANDOM(1).normal(size=(3, 8))
  draw = lambda labels: places[labels] + random.normal(size=(len(labels), 8))  # noqa: E731
  actual, floors, blind = [], [], []
  for _ in range(20):
    labels = np.repeat(np.arange(3), (500 * share).astype(int))
    real = draw(labels)
    floors.append(estimate_floor(real, labels, 500, 2000))
    blind.append(estimate_floor(real, None, 500, 2000).fid)
    actual.append(frechet_distance(moments(draw(random.choice(3, 2000, p=share))), moments(real)))
  assert np.mean([f.fid for f in floors]) == pytest.approx(np.mean(actual), rel=0.15)
  assert np.mean([f.spread for f in floors]) == pytest.approx(np.std(actual, ddof=1), rel=0.6)
  assert np.mean(blind) > 1.5 * np.mean(actual)


@pytest.mark.parametrize(('n', 'm'), [(96, 960), (96, 96), (128, 500), (256, 96), (2000, 96), (512, 5000)])
def test_the_floor_of_few_images_in_many_dimensions(n, m):
  # 64 dimensions: from 1.5 images for each, of both sets, the estimate is within 10 % of the truth, here simulated.
  random, scale = RANDOM(0), np.arange(1, 65) ** -0.5
  draw = lambda n: np.maximum(random.normal(size=(n, 64)) * scale + 0.1, 0)  # noqa: E731
  true = np.mean([frechet_distance(moments(draw(m)), moments(draw(n))) for _ in range(20)])
  actual = np.mean([estimate_floor(draw(n), None, n, m).fid for _ in range(5)])
  assert actual == pytest.approx(true, rel=0.12)  # the simulation has an error of 1 to 2 %


def test_few_divisions_are_enough_in_many_dimensions(monkeypatch):
  calls = []
  monkeypatch.setattr(fid, 'distance_from', lambda *args: calls.append(args) or distance_from(*args))
  counts = {}
  for d in (4, 200):
    labels = np.arange(600) % 3
    coefficients = floor_coefficients(RANDOM(d).normal(size=(600, d)) + labels[:, None], labels)
    counts[d] = len(calls)
    calls.clear()
    assert min(coefficients.within) > 0 < min(coefficients.between)
  assert counts[200] == 2 * fid.MIN_DRAWS < counts[4] <= 2 * fid.MAX_DRAWS


def test_the_floor_of_images_with_labels_of_their_own():
  # As of a model without labels: classes of the reference are a random draw, too, and those of the fresh images another one.
  random, places = RANDOM(0), 5 * RANDOM(1).normal(size=(3, 8))

  def draw(n):
    labels = random.choice(3, n, p=[0.5, 0.3, 0.2])
    return places[labels] + random.normal(size=(n, 8)), labels

  actual, floors, same = [], [], []
  for _ in range(40):
    real, labels = draw(500)
    floors.append(estimate_floor(real, None, 500, 1000).fid)
    same.append(estimate_floor(real, labels, 500, 1000).fid)
    actual.append(frechet_distance(moments(draw(1000)[0]), moments(real)))
  assert np.mean(floors) == pytest.approx(np.mean(actual), rel=0.2)
  assert np.mean(same) < 0.7 * np.mean(actual)


def test_the_floor_of_real_images_is_that_of_images_held_back(shared_data):
  images = read_idx(shared_data / 'fashion_mnist' / 'train-images-idx3-ubyte.gz')
  pooled = images.reshape(-1, 7, 4, 7, 4).mean(axis=(2, 4)).reshape(len(images), 49) / 255
  actual, floors = [], []
  for seed in range(6):
    order = RANDOM(seed).permutation(len(images))
    known, fresh = np.split(order[:11_500], [1500])
    floors.append(estimate_floor(pooled[known], None, 1500, 10_000).fid)
    actual.append(frechet_distance(moments(pooled[fresh]), moments(pooled[known])))
  assert np.mean(floors) == pytest.approx(np.mean(actual), rel=0.15)


def test_mmd_as_the_paper_writes_it():
  x, y = RANDOM(0).normal(size=(7, 4)), RANDOM(1).normal(size=(7, 4)) + 1
  k = lambda a, b: (a @ b / 4 + 1) ** 3  # noqa: E731
  pairs = [(i, j) for i in range(7) for j in range(7)]
  apart = [(i, j) for i, j in pairs if i != j]
  expected = (
    np.mean([k(x[i], x[j]) for i, j in apart])
    + np.mean([k(y[i], y[j]) for i, j in apart])
    - 2 * np.mean([k(x[i], y[j]) for i, j in pairs])
  )
  with jax.enable_x64(True):
    assert float(mmd2(x, y)) == pytest.approx(expected, rel=1e-12)


def test_kid_is_unbiased():
  a, b = gaussian(4, 0), gaussian(4, 2)
  values = {
    n: [kid(draw(a, 2 * n, s), draw(a, 2 * n, 500 + s), subsets=1, subset_size=n).value for s in range(200)] for n in (20, 60)
  }
  for n, actual in values.items():
    assert abs(np.mean(actual)) < 3 * np.std(actual) / math.sqrt(len(actual)), n
  assert min(kid(draw(a, 120, s), draw(b, 120, s), 1, 60).value for s in range(20)) > np.max(values[60])


@pytest.mark.slow
def test_the_interval_of_kid_covers_the_truth():
  # E MMD^2 for this kernel from many samples, and how often blocks of 50 cover it: 95 % of 60, give or take.
  a, b = gaussian(4, 0), gaussian(4, 1)
  with jax.enable_x64(True):
    true = np.mean([float(mmd2(draw(a, 4000, s), draw(b, 4000, 100 + s))) for s in range(5)])
  actual = [kid(draw(b, 1000, 10 + s), draw(a, 1000, 200 + s), subsets=50, subset_size=50) for s in range(60)]
  covered = np.mean([f.low < true < f.high for f in actual])
  assert covered >= 0.85
  spread = np.std([f.value for f in actual])
  assert 3 * spread < np.mean([f.high - f.low for f in actual]) < 6 * spread  # 4 for normal values of that spread


def test_the_interval_of_kid_of_few_samples_is_informative():
  a = gaussian(4, 0)
  actual = [kid(draw(a, 300, 10 + s), draw(a, 300, 200 + s)) for s in range(40)]
  assert np.mean([f.low < 0 < f.high for f in actual]) >= 0.85
  assert np.median([f.high - f.low for f in actual]) < 16 * np.std([f.value for f in actual])  # 36 with two blocks


def test_tight_clusters_far_apart_are_not_rounded_together():
  # Ten clusters of deviation 0.03 whose centers lie some 160 apart, in 128 dimensions, against distances in float64.
  centers = 10 * RANDOM(0).normal(size=(10, 128))
  real, fake = (np.repeat(centers, 30, axis=0) + 0.03 * RANDOM(s).normal(size=(300, 128)) for s in (1, 2))
  reach = np.sort(cdist(real, real))[:, 5]
  assert manifold(real, fake).density == pytest.approx((cdist(fake, real) <= reach[None]).sum(axis=1).mean() / 5, rel=0.03)


def blobs(*centers, n=200, seed=0):
  return np.concatenate([RANDOM(seed + i).normal(size=(n, 2)) * 0.1 + [c, 0] for i, c in enumerate(centers)])


def test_precision_is_of_samples_and_recall_of_real_images():
  both, one, elsewhere = blobs(0, 10), blobs(0, seed=7), blobs(50, seed=9)
  actual = manifold(real=both, fake=one)
  assert actual.precision > 0.95
  assert actual.recall == pytest.approx(0.5, abs=0.03)
  assert actual.coverage == pytest.approx(0.5, abs=0.05)
  actual = manifold(real=one, fake=both)
  assert actual.precision == pytest.approx(0.5, abs=0.03)
  assert actual.recall > 0.95
  assert actual.coverage > 0.9
  assert manifold(both, elsewhere) == (0, 0, 0, 0)
  assert manifold(both, both.copy())[:2] == (1, 1)


@pytest.mark.parametrize('m', [500, 2000])
def test_density_and_coverage_expected_of_equal_distributions(m):
  # 2002.09797, lemmas 1 and 2: E density = 1, E coverage = 1 - prod_{i=1..k} (N - i) / (M + N - i), whatever the distribution.
  n, k = 1000, 5
  actual = [manifold(RANDOM(s).normal(size=(n, 8)), RANDOM(90 + s).normal(size=(m, 8)), k_density=k) for s in range(6)]
  assert np.mean([f.density for f in actual]) == pytest.approx(1, abs=0.03)
  expected = 1 - math.prod((n - i) / (m + n - i) for i in range(1, k + 1))
  assert np.mean([f.coverage for f in actual]) == pytest.approx(expected, abs=0.012)


def test_an_outlier_lifts_precision_and_not_density():
  # 2002.09797, figure 1: one real outlier far away makes a large ball, in which samples around it all lie.
  real = np.concatenate([RANDOM(0).normal(size=(500, 2)), [[40.0, 0.0]]])
  fake = RANDOM(1).normal(size=(500, 2)) * 3 + [40, 0]
  actual = manifold(real, fake)
  assert actual.precision > 0.95
  assert actual.density < 0.25  # it is in one ball, of k = 5


def test_held_out_images_that_are_training_images_are_no_baseline_for_copies():
  points = RANDOM(0).normal(size=(500, 6))
  held_out = RANDOM(1).normal(size=(200, 6))
  held_out[:4] = points[:4]
  assert copies(points, held_out, points) is None


def test_nearest_points_and_copies():
  points = RANDOM(0).normal(size=(3000, 6))
  rows = points[::7] + 1e-4
  distance, place = nearest(rows, points)
  assert (place[:, 0] == np.arange(3000)[::7]).all()
  np.testing.assert_allclose(distance[:, 0], 1e-4 * math.sqrt(6), rtol=0.1, atol=1e-3)
  held_out = RANDOM(1).normal(size=(1000, 6))
  assert copies(points, held_out, points[:500]).closer == 1
  assert copies(points, held_out, points[:500]).median_ratio < 0.01
  fresh = copies(points, held_out, RANDOM(2).normal(size=(1000, 6)))
  assert fresh.median_ratio == pytest.approx(1, abs=0.05)
  assert fresh.closer == pytest.approx(0.01, abs=0.012)


def score(p, parts, splits=10):
  running = RunningScore(len(p), splits)
  for part in np.array_split(p, parts):
    running.add(part)
  return running.result()


def test_inception_score():
  classes = np.eye(8)[np.arange(400) % 8]
  assert score(classes, 1) == pytest.approx((8, 0))
  assert score(np.full((400, 8), 1 / 8), 3) == pytest.approx((1, 0))
  p = RANDOM(0).dirichlet(np.ones(6), 1003)
  np.testing.assert_allclose(score(p, 1), score(p, 13), rtol=1e-12)
  by_hand = np.exp(np.mean([(row * np.log(row / p.mean(axis=0))).sum() for row in p]))
  assert score(p, 2, splits=1)[0] == pytest.approx(by_hand)


def test_points_on_a_grid_have_no_density():
  random = np.random.default_rng(0)
  real, fake = (random.integers(0, 4, (1000, 2)).astype(float) for _ in range(2))
  actual = manifold(real, fake)  # sixteen places: every ball is a point
  assert actual.density is None
  assert (actual.precision, actual.recall, actual.coverage) == (1.0, 1.0, 1.0)


def test_where_the_features_lie_does_not_matter():
  random = np.random.default_rng(0)
  real, fake = (random.normal(size=(400, 20)) for _ in range(2))
  actual = manifold(real, fake * 1.1)
  np.testing.assert_allclose(manifold(real + 1e4, fake * 1.1 + 1e4), actual, rtol=1e-12)
