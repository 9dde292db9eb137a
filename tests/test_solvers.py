"""Paths, time grids, solvers and likelihood on mixtures (tests/mixture.py), and beside huggingface/diffusers."""

import functools
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import norm

from benchmarks import solver_order
from genjax import rng
from genjax.objectives.diffusion import parameterizations
from genjax.samplers import ode, paths, process, solvers, timesteps
from genjax.samplers.likelihood import log_prob
from tests.conftest import ROOT, batch_of, sometimes
from tests.mixture import KEYS, MEAN, NOTHING, PATHS, STD, WEIGHT, N, exact, model, quantiles_moved, start


@functools.cache
def solved(solver, path, steps, grid='log_snr'):
  path = PATHS[path]
  times = timesteps.TIMESTEPS[grid](path, steps)
  return jax.jit(lambda x: solvers.SOLVERS[solver](exact(path), path, x, times, None))(start(path))


# Paths


@pytest.mark.parametrize('name', PATHS)
def test_a_path_goes_from_data_to_noise(name):
  path = PATHS[name]
  t = path.end * jnp.linspace(0.02, 1.0, 50)
  assert float(path.alpha(jnp.zeros(()))) == 1
  assert float(path.sigma(jnp.zeros(()))) == 0
  ratio = np.asarray(process.ratio(path, t))
  assert (np.diff(ratio) > 0).all()
  assert ratio[-1] > 40
  np.testing.assert_allclose(path.time(jnp.asarray(ratio)), t, rtol=2e-4)
  assert float(path.time(jnp.zeros(()))) == 0
  if name.startswith(('VP', 'Discrete')):
    np.testing.assert_allclose(path.alpha(t) ** 2 + path.sigma(t) ** 2, 1, rtol=1e-6)
  h = 1e-3 * path.end
  inner = t[5:-5]  # differences of the interpolated paths are those of one piece or of two
  for actual, function in zip(process.derivatives(path, inner), (path.alpha, path.sigma), strict=True):
    np.testing.assert_allclose(actual, (function(inner + h) - function(inner - h)) / (2 * h), rtol=0.02, atol=2e-3)


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
  assert float(process.log_snr(PATHS['VPCosine'], jnp.ones(()))) == pytest.approx(-15, abs=1e-3)


def test_time_grids():
  sigma = np.asarray(timesteps.karras(PATHS['EDM'], 18))  # 2206.00364, eq. 5 with its defaults
  i = np.arange(18)
  by_hand = (80 ** (1 / 7) + i / 17 * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7
  np.testing.assert_allclose(sigma, [*by_hand, 0], rtol=1e-4)
  for grid in timesteps.TIMESTEPS.values():
    for path in PATHS.values():
      for steps in (1, 2, 20):
        t = np.asarray(grid(path, steps))
        assert t.shape == (steps + 1,)
        assert t[0] == np.float32(path.end)
        assert t[-1] == 0
        assert (np.diff(t) < 0).all(), (grid, path, t)
  snr = np.asarray(process.log_snr(PATHS['VPLinear'], timesteps.uniform_log_snr(PATHS['VPLinear'], 10)[:-1]))
  np.testing.assert_allclose(np.diff(snr), np.diff(snr)[0], rtol=2e-3)
  np.testing.assert_allclose(timesteps.quadratic(PATHS['VPLinear'], 4), [1, 9 / 16, 1 / 4, 1 / 16, 0])


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
    ('unipc', 'VPCosine', 3),
  ],
)
def test_a_solver_converges_with_its_order(solver, path, order):
  counts = [16, 32, 64]
  right = quantiles_moved(PATHS[path], np.asarray(start(PATHS[path])))
  errors = [np.abs(np.asarray(solved(solver, path, n).x) - right).max() for n in counts]
  assert -np.polyfit(np.log(counts), np.log(errors), 1)[0] == pytest.approx(order, abs=0.35), errors
  turns = 2 * counts[-1] - 1 if solver == 'heun' else counts[-1]
  assert (solved(solver, path, counts[-1]).evaluations == turns).all()


JOINT = {  # with those whose steps, T, the numbers of steps below divide, and so meet
  **PATHS,
  'DiscreteCosine, T=250': paths.DiscreteCosine(T=250),
  'DiscreteLinear, T=250': paths.DiscreteLinear(T=250, beta_1=4e-4, beta_T=0.08),
}


@functools.cache
def joint(path, last):
  """Where DOP853 takes a mixture in four dimensions, by code that is not genjax's."""
  return solver_order.reference(JOINT[path], last)


@pytest.mark.parametrize('path', sometimes(JOINT, 7))
@pytest.mark.parametrize(('solver', 'order'), sometimes([('euler', 1), ('heun', 2), ('dpmpp_2m', 2), ('unipc', 3)], 1))
def test_a_solver_s_order_on_every_path(solver, order, path):
  counts, right = [50, 100, 250, 500], joint(path, float(JOINT[path].ratio_min))
  actual = [np.median(solver_order.errors(solver_order.solve(solver, JOINT[path], 'log_snr', n), right)) for n in counts]
  assert solver_order.order(counts, actual) == pytest.approx(order, abs=0.25), actual
  assert actual[-1] < 2e-3 if order == 1 else actual[-1] < 5e-5


@pytest.mark.parametrize('path', sometimes([name for name in JOINT if name.startswith('Discrete')], 2))
def test_heun_is_not_worse_where_a_discrete_path_has_its_steps(path):
  right = joint(path, 1e-6)
  error = {n: solver_order.errors(solver_order.solve('heun', JOINT[path], 'uniform', n), right) for n in (125, 250, 251, 500)}
  np.testing.assert_allclose(error[250], error[251], rtol=0.1, atol=2e-5)
  assert (error[250] < 0.8 * error[125] + 2e-5).all()
  assert (error[500] < 0.8 * error[250] + 2e-5).all()


@pytest.mark.parametrize('path', sometimes(JOINT, 7))
def test_dopri5_keeps_its_tolerance_on_every_path(path):
  right = joint(path, float(JOINT[path].ratio_min))
  actual = solver_order.solve('dopri5', JOINT[path], 'log_snr', 1, rtol=1e-5, atol=1e-5)
  assert solver_order.errors(actual, right).max() < 2e-4
  assert int(actual.evaluations.max()) < 400


@pytest.mark.parametrize(
  ('solver', 'path', 'order', 'options'),
  [
    ('ancestral', 'VPLinear', 1, {}),
    ('ddim', 'RectifiedFlow', 1, {'eta': 0.5}),
    ('dpmpp_2m_sde', 'RectifiedFlow', 2, {}),
    ('dpmpp_2m_sde', 'VPCosine', 2, {}),
    ('heun', 'EDM', 2, {'churn': 4.0}),
  ],
)
def test_a_random_solver_s_variance_converges_with_its_order(solver, path, order, options, monkeypatch):
  # Of Gaussian data D is linear, so that x_0 is a sum of x_T and the noises drawn. Pixel i holds the coefficient of the i-th.
  path, s, counts, errors = PATHS[path], 0.5, [32, 64, 128], []
  unit = lambda i, shape: jax.nn.one_hot(i, shape[0])[None, :, None, None]  # noqa: E731
  monkeypatch.setattr(solvers, 'rng', types.SimpleNamespace(fold_in=lambda keys, i: i, normal=unit))

  def denoise(x, t):
    alpha, sigma = path.alpha(t), path.sigma(t)
    return alpha * s**2 / ((alpha * s) ** 2 + sigma**2) * x

  end = jnp.asarray(path.end)
  for n in counts:
    x = unit(0, (n + 1, 1, 1)) * jnp.hypot(path.alpha(end) * s, path.sigma(end))
    actual = solvers.SOLVERS[solver](denoise, path, x, timesteps.uniform_log_snr(path, n), None, **options)
    errors.append(abs(float((actual.x**2).sum()) - s**2))
  assert -np.polyfit(np.log(counts), np.log(errors), 1)[0] == pytest.approx(order, abs=0.2), errors


@pytest.mark.parametrize('path', sometimes(PATHS, 0, 3))
def test_the_adaptive_solver_reaches_every_path_s_quantiles(path):
  actual = solved('dopri5', path, 1)
  np.testing.assert_allclose(actual.x, quantiles_moved(PATHS[path], np.asarray(start(PATHS[path]))), atol=2e-3)
  assert int(actual.evaluations.max()) < 250


@pytest.mark.parametrize(
  ('solver', 'path', 'options'),
  sometimes(
    [
      ('ancestral', 'DiscreteLinear', {}),
      ('ancestral', 'RectifiedFlow', {}),
      ('ddim', 'VPLinear', {'eta': 0.5}),
      ('dpmpp_2m_sde', 'RectifiedFlow', {}),
      ('dpmpp_2m_sde', 'VPCosine', {}),
      ('heun', 'EDM', {'churn': 40.0}),
      ('heun', 'RectifiedFlow', {'churn': 10.0}),
      ('predictor_corrector', 'VE', {}),
      ('predictor_corrector', 'VPLinear', {}),
    ],
    *(0, 4),
  ),
)
def test_random_solvers_reach_the_moments_of_the_data(solver, path, options):
  where = PATHS[path]
  keys = KEYS[:256]
  noise = where.sigma(jnp.asarray(where.end)) * rng.normal(rng.fold_in(keys, 0), (8, 8, 1))
  function = functools.partial(solvers.SOLVERS[solver], **options)
  x = np.asarray(jax.jit(lambda x: function(exact(where), where, x, timesteps.uniform_log_snr(where, 300), keys).x)(noise))
  mean = (WEIGHT * MEAN).sum()
  assert x.mean() == pytest.approx(mean, abs=0.02)
  assert x.std() == pytest.approx(np.sqrt((WEIGHT * (STD**2 + MEAN**2)).sum() - mean**2), rel=0.03)
  assert (x < -0.15).mean() == pytest.approx((WEIGHT * norm.cdf(-0.15, MEAN, STD)).sum(), abs=0.02)


def test_churn_raises_the_noise_before_a_step():
  # 2206.00364, algorithm 2: t_hat = t + gamma t, and noise of deviation S_noise sqrt(t_hat^2 - t^2); the last step is D itself.
  x = jnp.full((64, 8, 8, 1), 3.0)
  for churn, noise, grown in ((0.2, 1.0, 1.2), (0.2, 1.5, 1.2), (9.0, 1.0, 2**0.5)):
    for t, limit in ((10.0, 80.0), (75.0, 80.0)):  # not above the path's end
      t_hat = min(grown * t, limit)
      heun = functools.partial(solvers.heun, churn=churn, churn_noise=noise)
      actual = heun(lambda x, t: x, PATHS['EDM'], x, jnp.array([t, 0.0]), KEYS[:64])
      assert float(actual.x.std()) == pytest.approx(noise * np.sqrt(t_hat**2 - t**2), rel=0.05)
      np.testing.assert_allclose(
        heun(lambda x, t: 0 * x + t, PATHS['EDM'], x, jnp.array([t, 0.0]), KEYS[:64]).x, t_hat, rtol=1e-5
      )
  outside = solvers.heun(lambda x, t: x, PATHS['EDM'], x, jnp.array([10.0, 0.0]), KEYS[:64], 0.2, churn_min=11.0)
  np.testing.assert_array_equal(outside.x, x)


def test_the_langevin_corrector_takes_a_step_of_its_size():
  # At deviation s, x = c s and D = 0 the score is -c / s: the step is 2 (r / c)^2 s^2, for the mean and, doubled, the variance.
  s, c = 2.0, 0.8
  actual = solvers.predictor_corrector(
    lambda x, t: 0 * x, PATHS['EDM'], jnp.full((64, 16, 16, 1), c * s), jnp.array([s, s, 0.0]), KEYS[:64]
  )
  before, after = actual.states[1], actual.states[2]
  np.testing.assert_allclose(before, c * s, rtol=1e-5)  # the predictor did not move
  size = 2 * (0.16 / c) ** 2 * s**2
  assert float(after.mean()) == pytest.approx(c * s - size * c / s, abs=0.02)
  assert float(after.std()) == pytest.approx(np.sqrt(2 * size), rel=0.03)
  tiny = solvers.predictor_corrector(lambda x, t: x, PATHS['EDM'], jnp.ones((4, 2, 2, 1)), jnp.array([s, s, 0.0]), KEYS[:4])
  assert float(tiny.states[2].std()) < 4 * s  # where eps is 0 the step is s^2 at most


def test_a_step_does_not_pass_over_a_steep_part():
  # y' = a narrow bump late in a flat interval.
  slope = lambda t, y: 20 * jnp.exp(-0.5 * ((t[:, None] - 0.7) / 0.02) ** 2) + 0 * y  # noqa: E731
  y, *_ = ode.integrate(slope, jnp.zeros((1, 1)), jnp.zeros(()), jnp.ones(()), 1e-4, 1e-4)
  assert float(y[0, 0]) == pytest.approx(20 * 0.02 * np.sqrt(2 * np.pi), rel=1e-2)


def test_nothing_is_asked_below_the_first_step_of_a_discrete_path():
  for name in ('DiscreteLinear', 'DiscreteCosine'):
    path = PATHS[name]
    assert float(path.time(jnp.asarray(path.ratio_min))) == pytest.approx(1 / 1000, rel=1e-3)
    for grid in ('karras', 'log_snr'):
      assert float(timesteps.TIMESTEPS[grid](path, 20)[-2]) == pytest.approx(1 / 1000, rel=1e-3)


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
  actual = solvers.ancestral(lambda x, t: jnp.full_like(x, x_0), PATHS['DiscreteLinear'], x_t, grid, KEYS)
  assert float(actual.x.mean()) == pytest.approx(mean, abs=4 * deviation / np.sqrt(4 * N))
  assert float(actual.x.std()) == pytest.approx(deviation, rel=0.02)


@pytest.mark.parametrize('solver', solvers.SOLVERS)
def test_an_image_does_not_depend_on_its_batch(solver):
  path = PATHS['VPLinear']

  def function(n):
    noise = rng.normal(rng.fold_in(KEYS[:n], 0), (2, 2, 1))
    return solvers.SOLVERS[solver](exact(path), path, noise, timesteps.karras(path, 8), KEYS[:n])

  eight, four = jax.jit(function, static_argnums=0)(8), jax.jit(function, static_argnums=0)(4)
  np.testing.assert_allclose(eight.x[:4], four.x, atol=1e-5)
  assert (eight.evaluations[:4] == four.evaluations).all()


@pytest.mark.parametrize('solver', solvers.SOLVERS)
def test_the_trajectory_is_returned(solver):
  of = model('Velocity', 'RectifiedFlow')
  keys, grid = KEYS[:3], timesteps.uniform(of.path, 5)
  actual = of.solve(NOTHING, keys, {}, solver=solver, steps=5)
  turns = 9 if solver in ('heun', 'predictor_corrector') else 5
  assert actual.states.shape == actual.x0s.shape == (turns, 3, 2, 2, 1)
  assert (actual.evaluations == turns).all() or solver == 'dopri5'
  np.testing.assert_allclose(actual.states[0], rng.normal(rng.fold_in(keys, 0), (2, 2, 1)), rtol=1e-6)
  for i in (0, -1):  # heun's and predictor_corrector's odd turns are at the next time
    t = grid[0] if i == 0 else grid[-2]
    np.testing.assert_allclose(actual.x0s[i], exact(of.path)(actual.states[i], t), atol=1e-4)
  np.testing.assert_allclose(actual.x, of.sample(NOTHING, keys, {}, solver=solver, steps=5), atol=1e-6)


def test_dormand_and_prince_s_table_is_of_fifth_order():
  # Butcher's conditions: of the quadrature, of the chains of stages, and of the fourth-order solution beside it.
  a, c = np.zeros((7, 7)), ode.NODES.astype(float)
  a[1:] = ode.STAGES
  b, other = a[6], a[6] - ode.ERROR
  np.testing.assert_allclose(a.sum(axis=1), c, atol=1e-6)
  for k in range(5):
    assert b @ c**k == pytest.approx(1 / (k + 1), abs=1e-6)
    assert (abs(other @ c**k - 1 / (k + 1)) < 1e-6) == (k < 4)
  chain = c
  for order in range(2, 6):
    assert b @ chain == pytest.approx(1 / np.prod(np.arange(1.0, order + 1)), abs=1e-6)
    chain = a @ chain


def test_integrate_takes_each_row_at_its_own_pace():
  rates = jnp.array([1.0, 30.0, 200.0])
  slope = lambda t, y: -rates[:, None] * (y - jnp.sin(t)[:, None])  # noqa: E731
  passed = jnp.array([0.0, 0.013, 0.4, 1.0])
  solve = jax.jit(lambda y: ode.integrate(slope, y, jnp.zeros(()), jnp.ones(()), 1e-5, 1e-5, passed))
  y, evaluations, way = solve(jnp.ones((3, 2)))
  k = np.array([1.0, 30.0, 200.0])  # y' = -k (y - sin t), y(0) = 1
  right = lambda t: (k**2 * np.sin(t) - k * np.cos(t)) / (1 + k**2) + (1 + k / (1 + k**2)) * np.exp(-k * t)  # noqa: E731
  np.testing.assert_allclose(y, np.stack([right(1), right(1)], axis=1), atol=1e-4)
  for t, actual in zip(passed, way, strict=True):
    np.testing.assert_allclose(actual, np.stack([right(t), right(t)], axis=1), atol=2e-4)
  assert (np.diff(np.asarray(evaluations)) > 20).all()
  stopped, *_ = ode.integrate(slope, jnp.ones((3, 2)), jnp.zeros(()), jnp.ones(()), 1e-5, 1e-5, max_steps=30)
  assert np.isnan(np.asarray(stopped)).any(axis=1).tolist() == [False, False, True]


@pytest.mark.parametrize('path', sometimes(PATHS, 0, 3))
@pytest.mark.parametrize('exactly', [True, False])
def test_the_likelihood_is_that_of_the_mixture(path, exactly):
  where, keys = PATHS[path], KEYS[:64]
  pick = rng.bernoulli(rng.fold_in(keys, 1), WEIGHT[1], (4, 4, 1)).astype(int)
  x_0 = jnp.asarray(MEAN)[pick] + jnp.asarray(STD)[pick] * rng.normal(rng.fold_in(keys, 2), (4, 4, 1))
  actual, evaluations = jax.jit(lambda x: log_prob(exact(where), where, x, keys, exactly))(x_0)
  density = sum(w * norm.pdf(x_0, m, s) for w, m, s in zip(WEIGHT, MEAN, STD, strict=True))
  bits = (np.asarray(actual) - np.log(density).sum(axis=(1, 2, 3))) / 16 / np.log(2)
  assert abs(bits.mean()) < 1e-2
  if exactly:
    assert np.abs(bits).max() < 0.03
  assert int(evaluations.max()) < 300


def test_the_likelihood_of_8_bit_images():
  # Pixels all of one level, under a mixture as smooth as ours: the density at the level times its width, in nats.
  of = model('Velocity', 'RectifiedFlow')
  gray = np.linspace(60, 200, 64).round()
  image = jnp.broadcast_to(jnp.asarray(gray / 127.5 - 1)[:, None, None, None], (64, 2, 2, 1))
  actual = jax.jit(of.nll)(NOTHING, batch_of(image), KEYS[:64])
  edges = [(gray + half) / 127.5 - 1 for half in (-0.5, 0.5)]
  mass = sum(w * (norm.cdf(edges[1], m, s) - norm.cdf(edges[0], m, s)) for w, m, s in zip(WEIGHT, MEAN, STD, strict=True))
  assert (np.asarray(actual) + 4 * np.log(mass)).mean() / 4 / np.log(2) == pytest.approx(0, abs=1e-2)


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
  denoise = lambda x, t: parameterizations.Eps().x0(path, t, x, peer_eps(x, t))  # noqa: E731
  solver = {'ddpm': solvers.ancestral, 'ddim_eta': functools.partial(solvers.ddim, eta=0.7)}.get(name) or solvers.SOLVERS[name]
  x = jnp.asarray(peers['x'], jnp.float32)
  if name == 'euler':  # it begins at the deviation of y = x / alpha, sigma / alpha of t = 1, where x has 1
    x *= path.alpha(jnp.ones(())) * peers[f'{name}_{steps}_sigmas'].max()
  actual = solver(denoise, path, x, timesteps.uniform(path, steps), KEYS[:2]).x
  np.testing.assert_allclose(actual, peers[f'{name}_{steps}'], rtol=2e-5, atol=1e-4)


@pytest.mark.parametrize('steps', [4, 10])
def test_ancestral_steps_of_learned_variance_are_those_of_diffusers(peers, steps, monkeypatch):
  path, noise = PATHS['DiscreteLinear'], jnp.asarray(peers['noise'], jnp.float32)
  monkeypatch.setattr(solvers.rng, 'fold_in', lambda keys, i: i - 1)
  monkeypatch.setattr(solvers.rng, 'normal', lambda i, shape: noise[i])
  predict = lambda x, t: (parameterizations.Eps().x0(path, t, x, peer_eps(x, t)), jnp.sin(5 * x))  # noqa: E731
  x = jnp.asarray(peers['x'], jnp.float32)
  actual = solvers.learned_ancestral(predict, path, x, timesteps.uniform(path, steps)[:-1], KEYS[:2]).x
  np.testing.assert_allclose(actual, peers[f'ddpm_learned_{steps}'], rtol=2e-5, atol=2e-4)


@pytest.mark.parametrize('steps', [2, 10])
def test_heun_is_that_of_diffusers(peers, steps):
  # It works on y = x / alpha, which is EDM's path, with each sigma but the first and the last named twice.
  path, vp = PATHS['EDM'], PATHS['DiscreteLinear']
  sigmas = peers[f'heun_{steps}_sigmas']
  sigmas = jnp.asarray([sigmas[0], *sigmas[1:-1:2], 0.0])

  def denoise(y, sigma):
    return y - sigma * peer_eps(y / jnp.sqrt(sigma**2 + 1), vp.time(sigma))

  start = jnp.asarray(peers['x'], jnp.float32) * sigmas[0]
  actual = solvers.heun(denoise, path, start, sigmas, None).x
  np.testing.assert_allclose(actual, peers[f'heun_{steps}'], rtol=2e-5, atol=1e-4)


def test_edm_s_euler_and_preconditioning_are_those_of_diffusers(peers):
  path, karras = PATHS['EDM'], parameterizations.EDMPrecond(0.5)
  grid = timesteps.karras(path, 18)
  np.testing.assert_allclose(grid, peers['edm_18_sigmas'], rtol=1e-4)
  denoise = lambda y, s: karras.x0(path, s, y, peer_eps(karras.c_in(path, s) * y, karras.c_noise(path, s)))  # noqa: E731
  actual = solvers.euler(denoise, path, 80 * jnp.asarray(peers['x'], jnp.float32), grid).x
  np.testing.assert_allclose(actual, peers['edm_18'], rtol=2e-5, atol=1e-4)
