"""Paths, predictions, solvers and guidance on data whose diffusion is known: pixels that are independent 1-D mixtures.

Of two normal distributions the posterior mean at any x_t is a formula, and since the flow of the probability-flow ODE is
monotone in one dimension, it maps each quantile of the noise to that quantile of the data.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import brentq
from scipy.stats import norm

from genjax import rng
from genjax.errors import UsageError
from genjax.objectives import predictions, times, weightings
from genjax.objectives.diffusion import Diffusion
from genjax.samplers import grids, ode, paths, solvers
from genjax.samplers.guidance import guided
from genjax.samplers.likelihood import log_prob
from genjax.samplers.sampler import Sampler
from genjax.types import Batch, Context, Variables
from tests.conftest import ROOT

N = 4096
KEYS = rng.image_keys(jax.random.key(0), jnp.arange(N))
NOTHING = Variables({'model': {}}, {})
CONTEXT = Context(jnp.zeros((), int), {}, {})
WEIGHT, MEAN, STD = np.array([0.3, 0.7]), np.array([-0.5, 0.4]), np.array([0.15, 0.25])
PATHS = {
  type(path).__name__: path
  for path in (
    paths.RectifiedFlow(),
    paths.EDM(),
    paths.VE(),
    paths.VPLinear(),
    paths.VPCosine(),
    paths.DiscreteLinear(),
    paths.DiscreteCosine(),
  )
}
PREDICTIONS = ('Eps', 'X0', 'V', 'Velocity', 'Karras')


def image(t):
  return t[:, None, None, None] if t.ndim else t


def posterior(alpha, sigma, x, mean=MEAN):
  """E[x_0 | x_t = x] of the mixture."""
  variance = [alpha**2 * s**2 + sigma**2 for s in STD]
  terms = zip(WEIGHT, mean, variance, strict=True)
  p = jax.nn.softmax(jnp.stack([jnp.log(w / v**0.5) - 0.5 * (x - alpha * m) ** 2 / v for w, m, v in terms]), axis=0)
  means = [m + alpha * s**2 / v * (x - alpha * m) for m, s, v in zip(mean, STD, variance, strict=True)]
  return p[0] * means[0] + p[1] * means[1]


def exact(path, mean=MEAN):
  return lambda x, t: posterior(image(path.alpha(t)), image(path.sigma(t)), x, mean)


def quantiles_moved(path, x):
  """Where the probability-flow ODE takes `x` at the path's end."""
  end = jnp.asarray(path.end)
  alpha, sigma = float(path.alpha(end)), float(path.sigma(end))
  rows = list(zip(WEIGHT, MEAN, STD, strict=True))
  cdf = lambda y, a, b: sum(w * norm.cdf(y, a * m, np.hypot(a * s, b)) for w, m, s in rows)  # noqa: E731
  moved = [brentq(lambda y, q: cdf(y, 1.0, 0.0) - q, -6, 6, args=(cdf(v, alpha, sigma),)) for v in np.ravel(x)]
  return np.reshape(moved, x.shape)


def start(path, n=16):
  """Noise at the path's end, evenly spread."""
  spread = jnp.linspace(-1.8, 1.8, n).reshape(n // 4, 2, 2, 1)
  return path.sigma(jnp.asarray(path.end)) * spread


@functools.cache
def solved(solver, path, steps, grid='log_snr'):
  path = PATHS[path]
  return jax.jit(lambda x: solvers.SOLVERS[solver](exact(path), path, x, grids.GRIDS[grid](path, steps), None))(start(path))


# Paths


@pytest.mark.parametrize('name', PATHS)
def test_a_path_goes_from_data_to_noise(name):
  path = PATHS[name]
  t = path.end * jnp.linspace(0.02, 1.0, 50)
  assert float(path.alpha(jnp.zeros(()))) == 1
  assert float(path.sigma(jnp.zeros(()))) == 0
  ratio = np.asarray(paths.ratio(path, t))
  assert (np.diff(ratio) > 0).all()
  assert ratio[-1] > 40
  np.testing.assert_allclose(path.time(jnp.asarray(ratio)), t, rtol=2e-4)
  assert float(path.time(jnp.zeros(()))) == 0
  if name.startswith(('VP', 'Discrete')):
    np.testing.assert_allclose(path.alpha(t) ** 2 + path.sigma(t) ** 2, 1, rtol=1e-6)
  h = 1e-3 * path.end
  inner = t[5:-5]  # differences of the interpolated paths are those of one piece or of two
  for found, function in zip(paths.derivatives(path, inner), (path.alpha, path.sigma), strict=True):
    np.testing.assert_allclose(found, (function(inner + h) - function(inner - h)) / (2 * h), rtol=0.02, atol=2e-3)


def test_published_values_of_the_paths():
  # 2011.13456, appendix B: beta_min 0.1, beta_max 20; 2006.11239, section 4: L_T is KL(q(x_T | x_0) || N(0, I)), ~1e-5 bits.
  assert float(PATHS['VPLinear'].alpha(jnp.ones(()))) == pytest.approx(np.exp(-(20 - 0.1) / 4 - 0.1 / 2), rel=1e-5)
  linear = PATHS['DiscreteLinear']
  betas = np.linspace(1e-4, 0.02, 1000)
  np.testing.assert_allclose(linear.alpha(jnp.arange(1, 1001) / 1000) ** 2, np.cumprod(1 - betas), rtol=2e-4)
  sigma = np.sqrt(1 - np.cumprod(1 - betas))
  np.testing.assert_allclose(linear.sigma(jnp.arange(1, 1001) / 1000), sigma, rtol=2e-5)
  f = lambda t: np.cos((t / 1000 + 0.008) / 1.008 * np.pi / 2) ** 2  # noqa: E731
  cosine = PATHS['DiscreteCosine']
  assert float(cosine.alpha(jnp.asarray(0.5)) ** 2) == pytest.approx(f(500) / f(0), rel=1e-4)
  assert 0 < float(cosine.alpha(jnp.ones(()))) < 1e-4  # not 0, since no beta exceeds 0.999
  assert float(paths.log_snr(PATHS['VPCosine'], jnp.ones(()))) == pytest.approx(-15, abs=1e-3)


def test_time_grids():
  sigma = np.asarray(grids.karras(PATHS['EDM'], 18))  # 2206.00364, eq. 5 with its defaults
  i = np.arange(18)
  by_hand = (80 ** (1 / 7) + i / 17 * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7
  np.testing.assert_allclose(sigma, [*by_hand, 0], rtol=1e-4)
  for grid in grids.GRIDS.values():
    for path in PATHS.values():
      for steps in (1, 2, 20):
        t = np.asarray(grid(path, steps))
        assert t.shape == (steps + 1,)
        assert t[0] == np.float32(path.end)
        assert t[-1] == 0
        assert (np.diff(t) < 0).all(), (grid, path, t)
  snr = np.asarray(paths.log_snr(PATHS['VPLinear'], grids.log_snr(PATHS['VPLinear'], 10)[:-1]))
  np.testing.assert_allclose(np.diff(snr), np.diff(snr)[0], rtol=2e-3)
  np.testing.assert_allclose(grids.quadratic(PATHS['VPLinear'], 4), [1, 9 / 16, 1 / 4, 1 / 16, 0])


# Predictions


@dataclasses.dataclass(frozen=True)
class ExactNetwork:
  """What a network that knows x_0 (the posterior mean, or `always`) answers, from the papers' definitions."""

  prediction: str
  path: str
  always: float | None = None

  def apply(self, variables, x, condition, label):
    path = PATHS[self.path]
    t = image(condition) / 1000 * path.end
    if self.prediction == 'Karras':
      t = path.time(jnp.exp(4 * image(condition)))
    a, b = path.alpha(t), path.sigma(t)
    if self.prediction == 'Karras':
      x_t = x * jnp.sqrt(0.25 * a**2 + b**2)
    elif self.prediction == 'Velocity':
      x_t = x
    else:
      x_t = x * jnp.sqrt(a**2 + b**2)
    x_0 = posterior(a, b, x_t) if self.always is None else jnp.full_like(x_t, self.always)
    eps = (x_t - a * x_0) / b
    if self.prediction == 'Karras':  # 2206.00364, table 1, for y = x_t / alpha at sigma / alpha
      s = b / a
      return (x_0 - 0.25 / (s**2 + 0.25) * x_t / a) / (s * 0.5 / jnp.sqrt(s**2 + 0.25))
    h = 1e-3 * path.end
    rate = lambda f: (f(t + h) - f(t - h)) / (2 * h)  # noqa: E731
    return {
      'Eps': eps,
      'X0': x_0,
      'V': a * eps - b * x_0,
      'Velocity': rate(path.alpha) * x_0 + rate(path.sigma) * eps,
    }[self.prediction]


def model(prediction, path, always=None, **options):
  given = {'times': times.Uniform(), 'image_shape': (2, 2, 1)} | options
  return Diffusion(ExactNetwork(prediction, path, always), PATHS[path], getattr(predictions, prediction)(), **given)


@pytest.mark.parametrize('path', PATHS)
def test_every_prediction_recovers_the_same_x0(path):
  where = PATHS[path]
  t = where.end * jnp.array([0.05, 0.3, 0.6, 0.95])
  if path == 'EDM':
    t = jnp.array([0.05, 0.5, 2.0, 70.0])
  x = image(where.sigma(t)) * start(PATHS['RectifiedFlow']) + 0.1
  right = exact(where)(x, t)
  for name in PREDICTIONS:
    if (name, path) == ('Eps', 'RectifiedFlow'):
      continue  # refused: it ends in pure noise
    found = model(name, path).denoiser(NOTHING, None)(x, t)
    np.testing.assert_allclose(found, right, atol=5e-3, err_msg=name)


@pytest.mark.parametrize('prediction', PREDICTIONS)
def test_targets_are_what_the_network_should_answer(prediction):
  # x_0 from the target is x_0; and an error of 1 of the answer is one of `eps_error` in eps.
  found = getattr(predictions, prediction)()
  x_0, eps = (rng.normal(rng.fold_in(KEYS[:4], i), (2, 2, 1)) for i in (1, 2))
  for path in PATHS.values():
    t = image(path.end * jnp.array([0.1, 0.3, 0.6, 0.9]))
    x_t = path.alpha(t) * x_0 + path.sigma(t) * eps
    target = found.target(path, t, x_0, eps)
    np.testing.assert_allclose(found.x0(path, t, x_t, target), x_0, atol=1e-3)
    wrong = found.x0(path, t, x_t, target + 1)
    error = paths.eps_from_x0(path, x_t, wrong, t) - eps
    np.testing.assert_allclose(
      jnp.abs(error), jnp.broadcast_to(jnp.abs(found.eps_error(path, t)), error.shape), rtol=5e-3, atol=1e-4
    )


@pytest.mark.parametrize('prediction', ['X0', 'V', 'Velocity', 'Karras'])
def test_the_weighted_loss_of_a_known_error(prediction):
  # Images are 0 and the network says x_0 = 0.1: with min-SNR weights the loss is 0.01 E min(SNR, 5), whatever F is.
  of = model(prediction, 'RectifiedFlow', always=0.1, times=times.LogitNormal(0.5, 0.8), weighting=weightings.MinSNR(5.0))
  batch = Batch(jnp.zeros((N, 2, 2, 1)), jnp.zeros(N, int), jnp.arange(N))
  loss = float(jax.jit(of.loss)({'model': {}}, CONTEXT, batch, KEYS)[0])
  t = 1 / (1 + np.exp(-(0.5 + 0.8 * np.random.default_rng(0).normal(size=10**6))))
  assert loss == pytest.approx(0.01 * np.minimum(((1 - t) / t) ** 2, 5).mean(), rel=0.06)


def test_weightings():
  path, bias = PATHS['VPCosine'], -1.0
  t = jnp.linspace(0.01, 1, 20_001)
  assert (weightings.Simple()(path, t) == 1).all()
  snr = np.exp(np.asarray(paths.log_snr(path, t), np.float64))
  np.testing.assert_allclose(weightings.MinSNR(3.0)(path, t) * snr, np.minimum(snr, 3), rtol=1e-4)
  # Over uniform times, sigmoid(bias - lambda) SNR integrates to exp(bias) log(1 + exp(lambda - bias)) between the ends.
  integral = np.trapezoid(np.asarray(weightings.Sigmoid(bias)(path, t)) * snr, t)
  upper, lower = (np.exp(bias) * np.log1p(np.exp(np.log(snr[i]) - bias)) for i in (0, -1))
  assert integral == pytest.approx(upper - lower, rel=2e-3)


def test_times_that_are_trained():
  flow, edm = PATHS['RectifiedFlow'], PATHS['EDM']
  t = np.asarray(times.Uniform()(flow, KEYS))
  np.testing.assert_allclose(np.quantile(t, [0.25, 0.5, 0.75]), [0.25, 0.5, 0.75], atol=0.03)
  t = np.asarray(times.LogitNormal(0.5, 2.0)(flow, KEYS))
  logit = np.log(t / (1 - t))
  assert (logit.mean(), logit.std()) == (pytest.approx(0.5, abs=0.1), pytest.approx(2, abs=0.1))
  sigma = np.log(np.asarray(times.LogNormal()(edm, KEYS)))
  assert (sigma.mean(), sigma.std()) == (pytest.approx(-1.2, abs=0.06), pytest.approx(1.2, abs=0.05))
  assert float(times.LogNormal(10.0, 0.1)(edm, KEYS).max()) == 80
  steps = np.unique(np.asarray(times.Discrete(4)(paths.DiscreteLinear(4), KEYS)))
  np.testing.assert_allclose(steps, [0.25, 0.5, 0.75, 1.0])


def test_the_loss_has_its_minimum_where_the_network_is_exact():
  # The least loss is E Var[target | x_t]. For V on normal data of deviation s: Var = s^2 / (alpha^2 s^2 + sigma^2).
  x_0 = 0.3 + 0.25 * rng.normal(rng.fold_in(KEYS, 9), (2, 2, 1))
  batch = Batch(x_0, jnp.zeros(N, int), jnp.arange(N))

  @dataclasses.dataclass(frozen=True)
  class Normal:
    off: float

    def apply(self, variables, x, condition, label):
      a, b = (image(f(condition / 1000)) for f in (PATHS['VPCosine'].alpha, PATHS['VPCosine'].sigma))
      mean = 0.3 + a * 0.25**2 / (a**2 * 0.25**2 + b**2) * (x - a * 0.3)
      return (a * x - mean) / b + self.off

  def loss(off):
    of = Diffusion(Normal(off), PATHS['VPCosine'], predictions.V(), times.Uniform(), (2, 2, 1))
    return float(jax.jit(of.loss)({'model': {}}, CONTEXT, batch, KEYS)[0])

  u = np.linspace(1e-5, 1, 10**5) * np.arctan(np.exp(7.5))
  least = (0.25**2 / (np.cos(u) ** 2 * 0.25**2 + np.sin(u) ** 2)).mean()
  assert loss(0.0) == pytest.approx(least, rel=0.04)
  assert loss(0.2) - loss(0.0) == pytest.approx(0.04, abs=0.01)


# Solvers


@pytest.mark.parametrize(
  ('solver', 'path', 'order'),
  [
    ('euler', 'RectifiedFlow', 1),
    ('euler', 'EDM', 1),
    ('ddim', 'VPLinear', 1),
    ('heun', 'RectifiedFlow', 2),
    ('heun', 'EDM', 2),
    ('heun', 'VPCosine', 2),
    ('dpmpp_2m', 'RectifiedFlow', 2),
    ('dpmpp_2m', 'VPLinear', 2),
    ('dpmpp_2m', 'VE', 2),
    ('unipc', 'RectifiedFlow', 3),
    ('unipc', 'DiscreteLinear', 3),
  ],
)
def test_a_solver_converges_with_its_order(solver, path, order):
  counts = [16, 32, 64]
  right = quantiles_moved(PATHS[path], np.asarray(start(PATHS[path])))
  errors = [np.abs(np.asarray(solved(solver, path, n).x) - right).max() for n in counts]
  assert -np.polyfit(np.log(counts), np.log(errors), 1)[0] == pytest.approx(order, abs=0.35), errors
  turns = 2 * counts[-1] - 1 if solver == 'heun' else counts[-1]
  assert (solved(solver, path, counts[-1]).evaluations == turns).all()


@pytest.mark.parametrize('path', PATHS)
def test_the_adaptive_solver_reaches_every_path_s_quantiles(path):
  found = solved('dormand_prince', path, 1)
  np.testing.assert_allclose(found.x, quantiles_moved(PATHS[path], np.asarray(start(PATHS[path]))), atol=2e-3)
  assert int(found.evaluations.max()) < 250


@pytest.mark.parametrize(
  ('solver', 'path', 'options'),
  [
    ('ancestral', 'DiscreteLinear', {}),
    ('ancestral', 'RectifiedFlow', {}),
    ('ddim', 'VPLinear', {'eta': 0.5}),
    ('dpmpp_2m_sde', 'RectifiedFlow', {}),
    ('dpmpp_2m_sde', 'VPCosine', {}),
    ('heun', 'EDM', {'churn': 40.0}),
    ('heun', 'RectifiedFlow', {'churn': 10.0}),
    ('langevin', 'VE', {}),
    ('langevin', 'VPLinear', {}),
  ],
)
def test_random_solvers_reach_the_moments_of_the_data(solver, path, options):
  where = PATHS[path]
  keys = KEYS[:256]
  noise = where.sigma(jnp.asarray(where.end)) * rng.normal(rng.fold_in(keys, 0), (8, 8, 1))
  function = functools.partial(solvers.SOLVERS[solver], **options)
  x = np.asarray(jax.jit(lambda x: function(exact(where), where, x, grids.log_snr(where, 300), keys).x)(noise))
  mean = (WEIGHT * MEAN).sum()
  assert x.mean() == pytest.approx(mean, abs=0.02)
  assert x.std() == pytest.approx(np.sqrt((WEIGHT * (STD**2 + MEAN**2)).sum() - mean**2), rel=0.03)
  assert (x < -0.15).mean() == pytest.approx((WEIGHT * norm.cdf(-0.15, MEAN, STD)).sum(), abs=0.02)


def test_an_ancestral_step_is_ddpm_s_posterior():
  # 2006.11239, eq. 7, in betas: from t = 600 to 599.
  betas = np.linspace(1e-4, 0.02, 1000)
  bar = np.cumprod(1 - betas)
  beta, now, before = betas[599], bar[599], bar[598]
  x, x_0 = 0.7, 0.2
  mean = np.sqrt(before) * beta / (1 - now) * x_0 + np.sqrt(1 - beta) * (1 - before) / (1 - now) * x
  deviation = np.sqrt((1 - before) / (1 - now) * beta)
  grid = jnp.array([0.6, 0.599])
  x_t = jnp.full((N, 2, 2, 1), x)
  found = solvers.ancestral(lambda x, t: jnp.full_like(x, x_0), PATHS['DiscreteLinear'], x_t, grid, KEYS)
  assert float(found.x.mean()) == pytest.approx(mean, abs=4 * deviation / np.sqrt(4 * N))
  assert float(found.x.std()) == pytest.approx(deviation, rel=0.02)


@pytest.mark.parametrize('solver', solvers.SOLVERS)
def test_an_image_does_not_depend_on_its_batch(solver):
  path = PATHS['VPLinear']

  def function(n):
    noise = rng.normal(rng.fold_in(KEYS[:n], 0), (2, 2, 1))
    return solvers.SOLVERS[solver](exact(path), path, noise, grids.karras(path, 8), KEYS[:n])

  eight, four = jax.jit(function, static_argnums=0)(8), jax.jit(function, static_argnums=0)(4)
  np.testing.assert_allclose(eight.x[:4], four.x, atol=1e-5)
  assert (eight.evaluations[:4] == four.evaluations).all()


@pytest.mark.parametrize('solver', [name for name in solvers.SOLVERS if name != 'dormand_prince'])
def test_the_way_is_returned(solver):
  of = model('Velocity', 'RectifiedFlow')
  keys, grid = KEYS[:3], grids.uniform(of.path, 5)
  found = of.solve(NOTHING, keys, None, Sampler(solver, 5))
  turns = 9 if solver in ('heun', 'langevin') else 5
  assert found.states.shape == found.x0s.shape == (turns, 3, 2, 2, 1)
  assert (found.evaluations == turns).all()
  np.testing.assert_allclose(found.states[0], rng.normal(rng.fold_in(keys, 0), (2, 2, 1)), rtol=1e-6)
  for i in (0, -1):  # heun's and langevin's odd turns are at the next time
    t = grid[0] if i == 0 else grid[-2]
    np.testing.assert_allclose(found.x0s[i], exact(of.path)(found.states[i], t), atol=1e-4)
  np.testing.assert_allclose(found.x, of.sample(NOTHING, keys, solver=solver, steps=5), atol=1e-6)


def test_integrate_takes_each_row_at_its_own_pace():
  rates = jnp.array([1.0, 30.0, 200.0])
  slope = lambda t, y: -rates[:, None] * (y - jnp.sin(t)[:, None])  # noqa: E731
  y, evaluations = jax.jit(lambda y: ode.integrate(slope, y, jnp.zeros(()), jnp.ones(()), 1e-5, 1e-5))(jnp.ones((3, 2)))
  k = np.array([1.0, 30.0, 200.0])  # y' = -k (y - sin t), y(0) = 1
  right = (k**2 * np.sin(1) - k * np.cos(1)) / (1 + k**2) + (1 + k / (1 + k**2)) * np.exp(-k)
  np.testing.assert_allclose(y, np.stack([right, right], axis=1), atol=1e-4)
  assert (np.diff(np.asarray(evaluations)) > 20).all()
  stopped, _ = ode.integrate(slope, jnp.ones((3, 2)), jnp.zeros(()), jnp.ones(()), 1e-5, 1e-5, max_steps=30)
  assert np.isnan(np.asarray(stopped)).any(axis=1).tolist() == [False, False, True]


@pytest.mark.parametrize('path', PATHS)
@pytest.mark.parametrize('exactly', [True, False])
def test_the_likelihood_is_that_of_the_mixture(path, exactly):
  where, keys = PATHS[path], KEYS[:64]
  pick = rng.bernoulli(rng.fold_in(keys, 1), WEIGHT[1], (4, 4, 1)).astype(int)
  x_0 = jnp.asarray(MEAN)[pick] + jnp.asarray(STD)[pick] * rng.normal(rng.fold_in(keys, 2), (4, 4, 1))
  found, evaluations = jax.jit(lambda x: log_prob(exact(where), where, x, keys, exactly))(x_0)
  density = sum(w * norm.pdf(x_0, m, s) for w, m, s in zip(WEIGHT, MEAN, STD, strict=True))
  bits = (np.asarray(found) - np.log(density).sum(axis=(1, 2, 3))) / 16 / np.log(2)
  assert abs(bits.mean()) < 1e-2
  if exactly:
    assert np.abs(bits).max() < 0.03
  assert int(evaluations.max()) < 300


def test_the_likelihood_of_8_bit_images():
  # Pixels all of one level, under a mixture as smooth as ours: the density at the level times its width, in nats.
  of = model('Velocity', 'RectifiedFlow')
  grey = np.linspace(60, 200, 64).round()
  image = jnp.broadcast_to(jnp.asarray(grey / 127.5 - 1)[:, None, None, None], (64, 2, 2, 1))
  found = jax.jit(of.nll)(NOTHING, Batch(image, jnp.zeros(64, int), jnp.arange(64)), KEYS[:64])
  edges = [(grey + half) / 127.5 - 1 for half in (-0.5, 0.5)]
  mass = sum(w * (norm.cdf(edges[1], m, s) - norm.cdf(edges[0], m, s)) for w, m, s in zip(WEIGHT, MEAN, STD, strict=True))
  assert (np.asarray(found) + 4 * np.log(mass)).mean() / 4 / np.log(2) == pytest.approx(0, abs=1e-2)


def peer_eps(x, t):
  """The network of tests/peers/make_solvers.py."""
  return 0.9 * jnp.tanh(x) + 0.2 * jnp.cos(3 * x + 2 * t)


@pytest.fixture(scope='module')
def peers():
  with np.load(ROOT / 'tests' / 'peers' / 'solvers.npz') as file:
    return dict(file)


@pytest.mark.parametrize('steps', [1, 2, 10])
@pytest.mark.parametrize('name', ['ddpm', 'ddim', 'ddim_eta', 'euler', 'dpmpp_2m', 'dpmpp_2m_sde', 'unipc'])
def test_solvers_are_those_of_diffusers(peers, name, steps, monkeypatch):
  path, noise = PATHS['DiscreteLinear'], jnp.asarray(peers['noise'], jnp.float32)
  monkeypatch.setattr(solvers.rng, 'fold_in', lambda keys, i: i - 1)  # the i-th step's noise is the peer's
  monkeypatch.setattr(solvers.rng, 'normal', lambda i, shape: noise[i])
  denoise = lambda x, t: predictions.Eps().x0(path, t, x, peer_eps(x, t))  # noqa: E731
  solver = {'ddpm': solvers.ancestral, 'ddim_eta': functools.partial(solvers.ddim, eta=0.7)}.get(name) or solvers.SOLVERS[name]
  x = jnp.asarray(peers['x'], jnp.float32)
  if name == 'euler':  # it begins at the deviation of y = x / alpha, sigma / alpha of t = 1, where x has 1
    x *= path.alpha(jnp.ones(())) * peers[f'{name}_{steps}_sigmas'].max()
  found = solver(denoise, path, x, grids.uniform(path, steps), KEYS[:2]).x
  np.testing.assert_allclose(found, peers[f'{name}_{steps}'], rtol=2e-5, atol=1e-4)


@pytest.mark.parametrize('steps', [2, 10])
def test_heun_is_that_of_diffusers(peers, steps):
  # It works on y = x / alpha, which is EDM's path, with each sigma but the first and the last named twice.
  path, vp = PATHS['EDM'], PATHS['DiscreteLinear']
  sigmas = peers[f'heun_{steps}_sigmas']
  sigmas = jnp.asarray([sigmas[0], *sigmas[1:-1:2], 0.0])

  def denoise(y, sigma):
    return y - sigma * peer_eps(y / jnp.sqrt(sigma**2 + 1), vp.time(sigma))

  start = jnp.asarray(peers['x'], jnp.float32) * sigmas[0]
  found = solvers.heun(denoise, path, start, sigmas, None).x
  np.testing.assert_allclose(found, peers[f'heun_{steps}'], rtol=2e-5, atol=1e-4)


def test_edm_s_euler_and_preconditioning_are_those_of_diffusers(peers):
  path, karras = PATHS['EDM'], predictions.Karras(0.5)
  grid = grids.karras(path, 18)
  np.testing.assert_allclose(grid, peers['edm_18_sigmas'], rtol=1e-4)
  denoise = lambda y, s: karras.x0(path, s, y, peer_eps(karras.scale(path, s) * y, karras.condition(path, s)))  # noqa: E731
  found = solvers.euler(denoise, path, 80 * jnp.asarray(peers['x'], jnp.float32), grid).x
  np.testing.assert_allclose(found, peers['edm_18'], rtol=2e-5, atol=1e-4)


# Guidance, labels, options


def test_guidance_interpolates_extrapolates_and_keeps_to_its_interval():
  path = PATHS['RectifiedFlow']
  a, b = exact(path, MEAN + 0.5), exact(path, MEAN - 0.5)
  x, t = jnp.full((1, 1, 1, 1), 0.2), jnp.asarray(0.5)
  at = lambda scale, *more: float(guided(a, b, scale, path, *more)(x, t)[0, 0, 0, 0])  # noqa: E731
  assert at(1.0) == pytest.approx(float(a(x, t)[0, 0, 0, 0]))
  assert at(0.0) == pytest.approx(float(b(x, t)[0, 0, 0, 0]))
  assert at(3.0) - at(1.0) == pytest.approx(2 * (at(1.0) - at(0.0)), rel=1e-4)
  assert at(3.0, (0.5, 2.0)) == at(3.0)  # sigma / alpha is 1
  assert at(3.0, (1.5, 2.0)) == at(3.0, (0.2, 0.9)) == at(1.0)
  both = guided(a, b, 3.0, path, (0.5, 2.0))(jnp.full((2, 1, 1, 1), 0.2), jnp.array([0.5, 0.9]))
  assert float(both[0, 0, 0, 0]) == pytest.approx(at(3.0))
  assert float(both[1, 0, 0, 0]) == pytest.approx(float(a(x, jnp.asarray(0.9))[0, 0, 0, 0]))


@dataclasses.dataclass(frozen=True)
class LabelSum:
  """A network that answers 10 where it is told a label and 0 where it is not."""

  def apply(self, variables, x, condition, label):
    return jnp.broadcast_to(10 * label.sum(axis=-1)[:, None, None, None], x.shape)


def plain(network, **options):
  return Diffusion(network, PATHS['RectifiedFlow'], predictions.Velocity(), times.LogitNormal(), (2, 2, 1), **options)


def test_label_dropout_hides_that_share_of_the_labels():
  # The image is 0 and the network's answer independent of eps: E (answer - eps)^2 = 1 + 100 (1 - p).
  batch = Batch(jnp.zeros((N, 2, 2, 1)), jnp.arange(N) % 3, jnp.arange(N))
  for p in (0.0, 0.3, 1.0):
    loss, _ = plain(LabelSum(), num_classes=3, label_dropout=p).loss({'model': {}}, CONTEXT, batch, KEYS)
    assert float(loss) == pytest.approx(1 + 100 * (1 - p), abs=3)


@dataclasses.dataclass(frozen=True)
class NormalOfLabel:
  """The exact velocity for data N(mu, 0.1^2), mu = -0.5, 0.5 by label and 0 for the null label."""

  def apply(self, variables, x, t, label):
    t = image(t) / 1000
    mu = (label * jnp.array([[-0.5, 0.5]])).sum(axis=-1)[:, None, None, None]
    variance = (1 - t) ** 2 * 0.01 + t**2
    x_0 = mu + (1 - t) * 0.01 / variance * (x - (1 - t) * mu)
    return t / variance * (x - (1 - t) * mu) - x_0


def test_guidance_leaves_the_null_label_for_the_label():
  flow = plain(NormalOfLabel(), num_classes=2)
  sample = lambda g, y, **more: flow.sample(NOTHING, KEYS[:512], jnp.full(512, y), guidance=g, **more)  # noqa: E731
  for guidance, label, mean in ((0.0, 1, 0.0), (1.0, 0, -0.5), (1.0, 1, 0.5), (1.5, 1, 0.75)):
    assert float(sample(guidance, label).mean()) == pytest.approx(mean, abs=0.02), (guidance, label)
  assert float(sample(1.5, 1, guidance_interval=(100.0, 200.0)).mean()) == pytest.approx(0.5, abs=0.02)


def test_clipping_holds_each_prediction():
  of = model('X0', 'VPCosine', always=3.0)
  free = of.solve(NOTHING, KEYS[:2], None, Sampler('ddim', 5))
  held = of.solve(NOTHING, KEYS[:2], None, Sampler('ddim', 5, clip_denoised=True))
  assert (free.x0s == 3).all()
  assert (held.x0s == 1).all()


@pytest.mark.parametrize(
  ('call', 'message'),
  [
    (lambda: plain(LabelSum()).sample(NOTHING, KEYS, solver='hen'), "solver='hen' is not there. Did you mean heun"),
    (lambda: plain(LabelSum()).sample(NOTHING, KEYS, grid='karas'), "grid='karas' is not there. Did you mean karras"),
    (lambda: plain(LabelSum()).sample(NOTHING, KEYS, steps=0), 'steps=0: a solver takes at least 1'),
    (lambda: plain(LabelSum()).sample(NOTHING, KEYS, eta=0.5), "eta=0.5: from 0 to 1, and with solver 'ddim' alone"),
    (lambda: plain(LabelSum()).sample(NOTHING, KEYS, solver='ddim', eta=2.0), 'eta=2.0: from 0 to 1'),
    (lambda: plain(LabelSum()).sample(NOTHING, KEYS, solver='ddim', churn=1.0), "churn=1.0: .* solver 'heun' alone"),
    (
      lambda: plain(LabelSum()).sample(NOTHING, KEYS, guidance=2.0),
      'guidance needs a class-conditional model, or a weaker one',
    ),
    (
      lambda: plain(LabelSum(), num_classes=2).sample(NOTHING, KEYS, guidance=2.0, guidance_interval=(3.0, 1.0)),
      r'guidance_interval=\(3.0, 1.0\): give \(low, high\)',
    ),
    (lambda: plain(LabelSum(), label_dropout=1.5), 'label_dropout=1.5 is a probability'),
    (lambda: model('Eps', 'RectifiedFlow'), 'ends in pure noise, where Eps says nothing of x_0: predict V'),
    (lambda: model('Eps', 'DiscreteLinear', times=times.Discrete(100)), 'path.T=1000 and times.T=100 must be the same'),
    (lambda: times.LogitNormal(std=0.0), 'std=0.0 must be positive'),
    (lambda: times.LogNormal(P_std=-1.0), 'P_std=-1.0 must be positive'),
    (lambda: times.Uniform(first=0.0), 'first=0.0 must be between 0 and 1'),
    (lambda: times.Discrete(0), 'T=0 must be 1 or more'),
    (lambda: predictions.Karras(0.0), 'sigma_data=0.0 must be positive'),
    (lambda: weightings.MinSNR(0.0), 'gamma=0.0 must be positive'),
    (lambda: paths.EDM(sigma_max=0.001), 'sigma_min=0.002 must be positive and below sigma_max=0.001'),
    (lambda: paths.VPLinear(beta_min=30.0), 'beta_min=30.0 must be positive and below beta_max=20.0'),
    (lambda: paths.DiscreteLinear(T=0), 'T=0 must be 1 or more'),
    (lambda: paths.DiscreteCosine(beta_max=1.0), 'beta_max=1.0 between 0 and 1'),
  ],
)
def test_values_out_of_range_are_refused(call, message):
  with pytest.raises(UsageError, match=message):
    call()
