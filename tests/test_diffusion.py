"""Predictions, losses, weightings, guidance and options of diffusion objectives on mixtures (tests/mixture.py)."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genjax import rng
from genjax.conditioners import ClassLabel
from genjax.errors import UsageError, UsageWarning
from genjax.networks.ddpmpp import DDPMpp
from genjax.networks.monotone import Monotone
from genjax.networks.unet import UNet
from genjax.objectives.diffusion import parameterizations, times, weightings
from genjax.objectives.diffusion.consistency import Consistency
from genjax.objectives.diffusion.denoising import Autoguided
from genjax.objectives.diffusion.diffusion import Diffusion
from genjax.objectives.diffusion.learned_variance import LearnedVariance
from genjax.objectives.diffusion.meanflow import MeanFlow
from genjax.objectives.diffusion.vdm import VDM
from genjax.samplers import paths, process
from genjax.samplers.guidance import guided, on_path
from genjax.samplers.sampler import Sampler
from genjax.types import HasLikelihood, Variables
from tests.conftest import batch_of
from tests.mixture import CONTEXT, KEYS, MEAN, NOTHING, PATHS, PREDICTIONS, N, exact, image, model, start


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
    actual = model(name, path).denoiser(NOTHING, {})(x, t)
    np.testing.assert_allclose(actual, right, atol=5e-3, err_msg=name)


@pytest.mark.parametrize('path', PATHS)
def test_every_prediction_is_finite_at_both_ends(path):
  where = PATHS[path]
  t = jnp.asarray([where.end, float(where.time(jnp.asarray(where.ratio_min)))])[:, None, None, None]
  for name in PREDICTIONS:
    if (name, path) == ('Eps', 'RectifiedFlow'):
      continue
    actual, ones = getattr(parameterizations, name)(), jnp.ones((2, 2, 2, 1))
    values = (
      actual.c_in(where, t),
      jnp.sin(actual.c_noise(where, t)),
      actual.x0(where, t, ones, ones),
      actual.target(where, t, ones, ones),
    )
    assert all(np.isfinite(np.asarray(v)).all() for v in values), name


@pytest.mark.parametrize('prediction', PREDICTIONS)
def test_targets_are_what_the_network_should_answer(prediction):
  # x_0 from the target is x_0; and an error of 1 of the answer is one of `eps_error` in eps.
  actual = getattr(parameterizations, prediction)()
  x_0, eps = (rng.normal(rng.fold_in(KEYS[:4], i), (2, 2, 1)) for i in (1, 2))
  for path in PATHS.values():
    t = image(path.end * jnp.array([0.1, 0.3, 0.6, 0.9]))
    x_t = path.alpha(t) * x_0 + path.sigma(t) * eps
    target = actual.target(path, t, x_0, eps)
    np.testing.assert_allclose(actual.x0(path, t, x_t, target), x_0, atol=1e-3)
    wrong = actual.x0(path, t, x_t, target + 1)
    error = process.eps_from_x0(path, x_t, wrong, t) - eps
    np.testing.assert_allclose(
      jnp.abs(error), jnp.broadcast_to(jnp.abs(actual.eps_error(path, t)), error.shape), rtol=5e-3, atol=1e-4
    )


@pytest.mark.parametrize('prediction', ['X0', 'V', 'Velocity', 'EDMPrecond'])
def test_the_weighted_loss_of_a_known_error(prediction):
  # Images are 0 and the network says x_0 = 0.1: with min-SNR weights the loss is 0.01 E min(SNR, 5), whatever F is.
  of = model(prediction, 'RectifiedFlow', always=0.1, times=times.LogitNormal(0.5, 0.8), weighting=weightings.MinSNR(5.0))
  batch = batch_of(jnp.zeros((N, 2, 2, 1)))
  loss = float(jax.jit(of.loss)({'model': {}}, CONTEXT, batch, KEYS)[0])
  t = 1 / (1 + np.exp(-(0.5 + 0.8 * np.random.default_rng(0).normal(size=10**6))))
  assert loss == pytest.approx(0.01 * np.minimum(((1 - t) / t) ** 2, 5).mean(), rel=0.06)


def test_weightings():
  path, bias = PATHS['VPCosine'], -1.0
  t = jnp.linspace(0.01, 1, 20_001)
  assert (weightings.Simple()(path, t) == 1).all()
  snr = np.exp(np.asarray(process.log_snr(path, t), np.float64))
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
  steps = np.unique(np.asarray(times.DiscreteTimes(4)(paths.DiscreteLinear(4), KEYS)))
  np.testing.assert_allclose(steps, [0.25, 0.5, 0.75, 1.0])


def test_the_loss_has_its_minimum_where_the_network_is_exact():
  # The least loss is E Var[target | x_t]. For V on normal data of deviation s: Var = s^2 / (alpha^2 s^2 + sigma^2).
  x_0 = 0.3 + 0.25 * rng.normal(rng.fold_in(KEYS, 9), (2, 2, 1))
  batch = batch_of(x_0)

  @dataclasses.dataclass(frozen=True)
  class Normal:
    off: float

    def apply(self, variables, x, condition, cond):
      a, b = (image(f(condition / 1000)) for f in (PATHS['VPCosine'].alpha, PATHS['VPCosine'].sigma))
      mean = 0.3 + a * 0.25**2 / (a**2 * 0.25**2 + b**2) * (x - a * 0.3)
      return (a * x - mean) / b + self.off

  def loss(off):
    of = Diffusion(Normal(off), PATHS['VPCosine'], parameterizations.V(), times.Uniform(), (2, 2, 1))
    return float(jax.jit(of.loss)({'model': {}}, CONTEXT, batch, KEYS)[0])

  u = np.linspace(1e-5, 1, 10**5) * np.arctan(np.exp(7.5))
  least = (0.25**2 / (np.cos(u) ** 2 * 0.25**2 + np.sin(u) ** 2)).mean()
  assert loss(0.0) == pytest.approx(least, rel=0.04)
  assert loss(0.2) - loss(0.0) == pytest.approx(0.04, abs=0.01)


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


@pytest.mark.parametrize('own', [p if p in ('EDM', 'VPLinear') else pytest.param(p, marks=pytest.mark.slow) for p in PATHS])
def test_a_model_of_one_path_is_asked_on_another_at_the_same_noise(own):
  for path in PATHS.values():
    asked, known = jax.jit(on_path(exact(PATHS[own]), PATHS[own], path)), exact(path)
    t = path.time(jnp.array([0.05, 0.5, 2.0, 20.0]))
    x = path.sigma(t)[:, None, None, None] * jnp.linspace(-1.5, 1.5, 4 * 5).reshape(4, 5, 1, 1)
    np.testing.assert_allclose(asked(x, t), known(x, t), atol=2e-3)
    np.testing.assert_allclose(asked(x, t[1]), known(x, t[1]), atol=2e-3)
    assert jnp.isfinite(asked(path.sigma(jnp.asarray(path.end)) * x, jnp.asarray(path.end))).all()


def test_a_weaker_model_of_another_kind_guides():
  main, weak = model('Velocity', 'RectifiedFlow'), model('EDMPrecond', 'EDM')
  both, nothing = Autoguided(main, weak), Variables({'main': {'model': {}}, 'weak': {'model': {}}}, {'main': {}, 'weak': {}})
  sample = lambda of, variables, guidance: of.sample(variables, KEYS[:64], {}, steps=20, guidance=guidance)  # noqa: E731
  alone = sample(main, NOTHING, 1.0)
  for guidance in (0.0, 2.0):  # both know the same images
    np.testing.assert_allclose(sample(both, nothing, guidance), alone, atol=2e-3)
  assert not isinstance(both, HasLikelihood)
  with pytest.raises(UsageError, match=r'guidance=1 .* guidance=2'):
    both.sample(nothing, KEYS[:2], {})


@dataclasses.dataclass(frozen=True)
class LabelSum:
  """A network that returns 10 with a label and 0 without one."""

  def apply(self, variables, x, condition, cond):
    return jnp.broadcast_to(10 * cond['label'].sum(axis=-1)[:, None, None, None], x.shape)


def plain(network, **options):
  return Diffusion(network, PATHS['RectifiedFlow'], parameterizations.Velocity(), times.LogitNormal(), (2, 2, 1), **options)


@pytest.mark.parametrize('rate', [0.0, 0.5])
@pytest.mark.parametrize('name', ['diffusion', 'learned variance', 'vdm', 'meanflow', 'consistency'])
def test_a_network_with_dropout_gets_keys_in_training_alone(name, rate):
  calls = []

  @dataclasses.dataclass(frozen=True)
  class Network:
    dropout: float = rate
    outputs: int = 2 if name == 'learned variance' else 1

    def apply(self, variables, x, condition, cond, *keys):
      calls.append(len(keys))
      return jnp.concatenate([x] * self.outputs, axis=-1)

  schedule = Monotone(4)
  params = {'model': {'network': {}, 'gamma_0': jnp.asarray(-10.0), 'gamma_1': jnp.asarray(5.0)}}
  params['schedule'] = schedule.init(jax.random.key(0), jnp.zeros(1))['params']
  steps = (PATHS['DiscreteCosine'], parameterizations.Eps(), times.DiscreteTimes(), (2, 2, 1))
  of = {
    'diffusion': lambda: plain(Network()),
    'learned variance': lambda: LearnedVariance(Network(), *steps, sampler=Sampler(clip_denoised=True)),
    'vdm': lambda: VDM(Network(), schedule, (2, 2, 1)),
    'meanflow': lambda: MeanFlow(Network(), (2, 2, 1)),
    'consistency': lambda: Consistency(Network(), (2, 2, 1), stage=1),
  }[name]()
  of.loss(params, CONTEXT, batch_of(jnp.zeros((4, 2, 2, 1))), KEYS[:4])
  assert set(calls) == {1 if rate else 0}
  calls.clear()
  of.sample(NOTHING._replace(params=params), KEYS[:4], {})
  assert set(calls) == {0}


def test_dropout_of_conditions_hides_that_share_of_the_labels():
  # The image is 0 and the network's answer independent of eps: E (answer - eps)^2 = 1 + 100 (1 - p).
  batch = batch_of(jnp.zeros((N, 2, 2, 1)), jnp.arange(N) % 3)
  for p in (0.0, 0.3, 1.0):
    loss, _ = plain(LabelSum(), conditioner=ClassLabel(3), cond_dropout=p).loss({'model': {}}, CONTEXT, batch, KEYS)
    assert float(loss) == pytest.approx(1 + 100 * (1 - p), abs=3)


@dataclasses.dataclass(frozen=True)
class NormalOfLabel:
  """The exact velocity for data N(mu, 0.1^2), mu = -0.5, 0.5 by label and 0 for the null label."""

  def apply(self, variables, x, t, cond):
    t = image(t) / 1000
    mu = (cond['label'] * jnp.array([[-0.5, 0.5]])).sum(axis=-1)[:, None, None, None]
    variance = (1 - t) ** 2 * 0.01 + t**2
    x_0 = mu + (1 - t) * 0.01 / variance * (x - (1 - t) * mu)
    return t / variance * (x - (1 - t) * mu) - x_0


def test_guidance_leaves_the_null_label_for_the_label():
  flow = plain(NormalOfLabel(), conditioner=ClassLabel(2))
  sample = lambda g, y, **more: flow.sample(NOTHING, KEYS[:512], {'label': jnp.full(512, y)}, guidance=g, **more)  # noqa: E731
  for guidance, label, mean in ((0.0, 1, 0.0), (1.0, 0, -0.5), (1.0, 1, 0.5), (1.5, 1, 0.75)):
    assert float(sample(guidance, label).mean()) == pytest.approx(mean, abs=0.02), (guidance, label)
  assert float(sample(1.5, 1, guidance_interval=(100.0, 200.0)).mean()) == pytest.approx(0.5, abs=0.02)


def test_clipping_holds_each_prediction():
  of = model('X0', 'VPCosine', always=3.0)
  free = of.solve(NOTHING, KEYS[:2], {}, solver='ddim', steps=5)
  held = of.solve(NOTHING, KEYS[:2], {}, solver='ddim', steps=5, clip_denoised=True)
  assert (free.x0s == 3).all()
  assert (held.x0s == 1).all()


@pytest.mark.parametrize(
  ('call', 'message'),
  [
    (lambda: plain(LabelSum()).sample(NOTHING, KEYS, {}, solver='hen'), "'hen'.* Did you mean '?heun"),
    (lambda: plain(LabelSum()).sample(NOTHING, KEYS, {}, timesteps='karas'), "'karas'.* Did you mean '?karras"),
    (lambda: plain(LabelSum()).sample(NOTHING, KEYS, {}, steps=0), 'steps=0'),
    (lambda: plain(LabelSum()).sample(NOTHING, KEYS, {}, eta=0.5), "eta=0.5 .* solver='ddim'"),
    (lambda: plain(LabelSum()).sample(NOTHING, KEYS, {}, solver='ddim', eta=2.0), 'eta=2.0 must be from 0 to 1'),
    (lambda: plain(LabelSum()).sample(NOTHING, KEYS, {}, solver='ddim', churn=1.0), "churn=1.0, .* solver='heun'"),
    (
      lambda: plain(LabelSum()).sample(NOTHING, KEYS, {}, guidance=2.0),
      'guidance needs a conditional model, or a guide',
    ),
    (
      lambda: plain(LabelSum(), conditioner=ClassLabel(2)).sample(
        NOTHING, KEYS, {}, guidance=2.0, guidance_interval=(3.0, 1.0)
      ),
      r'guidance_interval=\(3.0, 1.0\) must be \(low, high\)',
    ),
    (
      lambda: plain(LabelSum(), conditioner=ClassLabel(2)).sample(NOTHING, KEYS, {}, guidance_interval=(0.1, 3.0)),
      r'guidance_interval=\(0.1, 3.0\) has no effect with guidance=1',
    ),
    (
      lambda: plain(LabelSum()).sample(NOTHING, KEYS, {}, churn_noise=1.1),
      'churn_noise=1.1 have no effect with churn=0',
    ),
    (lambda: plain(LabelSum()).sample(NOTHING, KEYS, {}, churn=1.0, churn_interval=(1.0,)), 'churn_interval=.* must be'),
    (
      lambda: plain(LabelSum(), conditioner=ClassLabel(2), cond_dropout=0.0).sample(NOTHING, KEYS, {}, guidance=2.0),
      'cond_dropout=0 .* --guide',
    ),
    (lambda: plain(LabelSum()).sample(NOTHING, KEYS, {}, snr=0.1), "snr=0.1 needs solver='predictor_corrector'"),
    (
      lambda: plain(LabelSum()).sample(NOTHING, KEYS, {}, tolerance=1e-3),
      "tolerance=0.001 needs solver='dopri5'",
    ),
    (lambda: plain(LabelSum()).sample(NOTHING, KEYS, {}, rho=5.0), "rho=5.0 .*timesteps='karras'.*'uniform'"),
    (lambda: plain(LabelSum()).sample(NOTHING, KEYS, {}, rho=0.0), 'rho=0.0, .* must be positive'),
    (
      lambda: model('V', 'RectifiedFlow', times=times.LogitNormal(), weighting=weightings.Sigmoid()),
      'needs uniform times instead of LogitNormal',
    ),
    (lambda: plain(LabelSum()).nll(NOTHING, None, KEYS, 'bond'), "Unknown estimator 'bond'. Did you mean '?bound"),
    (lambda: plain(UNet(outputs=2)), 'outputs=2: this objective needs 1, set outputs=1'),
    (
      lambda: model('Eps', 'VPLinear', times=times.DiscreteTimes(10)),
      'needs discrete steps, but .* has none: use objectives.diffusion.times.Uniform',
    ),
    (lambda: plain(LabelSum(), cond_dropout=1.5), 'cond_dropout=1.5 must be a probability'),
    (lambda: model('Eps', 'RectifiedFlow'), 'ends in pure noise, where Eps does not determine x_0: predict V'),
    (lambda: model('Eps', 'DiscreteLinear', times=times.DiscreteTimes(100)), 'path.T=1000 and times.T=100 must be the same'),
    (lambda: times.LogitNormal(std=0.0), 'std=0.0 must be positive'),
    (lambda: times.LogNormal(P_std=-1.0), 'P_std=-1.0 must be positive'),
    (lambda: times.Uniform(first=0.0), 'first=0.0 must be between 0 and 1'),
    (lambda: times.DiscreteTimes(0), 'T=0 must be 1 or more'),
    (lambda: parameterizations.EDMPrecond(0.0), 'sigma_data=0.0 must be positive'),
    (lambda: weightings.MinSNR(0.0), 'gamma=0.0 must be positive'),
    (lambda: paths.EDM(sigma_max=0.001), 'sigma_min=0.002 must be positive and below sigma_max=0.001'),
    (lambda: paths.VPLinear(beta_min=30.0), 'beta_min=30.0 must be positive and below beta_max=20.0'),
    (lambda: paths.DiscreteCosine(T=2**40), 'T=1099511627776 must be from 2'),
    (lambda: paths.DiscreteLinear(T=1), 'T=1 must be from 2'),
    (lambda: paths.DiscreteCosine(beta_max=1.0), 'beta_max=1.0 between 0 and 1'),
  ],
)
def test_values_out_of_range_are_refused(call, message):
  with pytest.raises(UsageError, match=message):
    call()


def with_path(path, prediction, **options):
  return Diffusion(LabelSum(), path, prediction, image_shape=(2, 2, 1), times=times.Uniform(), **options)


@pytest.mark.parametrize(
  ('make', 'named'),
  [
    (lambda: with_path(paths.DiscreteLinear(T=100), parameterizations.V()), 'beta_T=0.2'),
    (lambda: with_path(paths.EDM(sigma_max=5.0), parameterizations.V()), 'sigma_max=5.0'),
    (lambda: with_path(paths.DiscreteCosine(), parameterizations.Eps()), 'clip_denoised=True'),
    (lambda: with_path(paths.VPCosine(), parameterizations.Eps()), 'clip_denoised=True'),
    (lambda: unet(16, attention=(7,)), r'attention=\(7,\).* 16, 8'),
    (lambda: unet(24, patch=2), r'attention=\(7, 8\).* 12, 6'),
    (lambda: unet(16, attention=(4, 16)), r'attention=\(4, 16\): no feature map has side 4; .* 16, 8\. Use only these'),
    (lambda: unet(16, attention=(8, 7, 6)), r'no feature map has side 7 or 6; .* 16, 8\.'),
    (lambda: network_init(DDPMpp(8, (1, 1), 1), 8), r'attention=\(16,\).* 8, 4'),
    (lambda: network_init(DDPMpp(8, (1, 1), 1, attention=(8, 2)), 8), r'attention=\(8, 2\): no feature map has side 2'),
  ],
)
def test_probable_mistakes_give_warnings(make, named):
  with pytest.warns(UsageWarning, match=named):
    make()


def unet(side, **options):
  return network_init(UNet(width=8, head_features=8, **{'multipliers': (1, 1), 'blocks': 1} | options), side)


def network_init(network, side):
  return jax.eval_shape(network.init, jax.random.key(0), jnp.zeros((1, side, side, 1)), jnp.zeros(1))


def test_remedies_of_the_warnings_give_none():  # warnings are errors here
  with_path(paths.DiscreteLinear(T=100, beta_1=1e-3, beta_T=0.2), parameterizations.Eps())
  with_path(paths.DiscreteCosine(), parameterizations.Eps(), sampler=Sampler(clip_denoised=True))
  for path in (*PATHS.values(), paths.DiscreteLinear(), paths.VPLinear()):
    with_path(path, parameterizations.V())
  unet(16, attention=(8,))
  for side in (14, 28, 16):  # the default is for images of several sizes
    unet(side, multipliers=(1, 1, 1) if side > 16 else (1, 1))
  unet(16, attention=())
