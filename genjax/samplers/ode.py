"""A solver of ordinary differential equations with adaptive steps for each row of a batch.

Solvers of libraries choose one step size for the whole batch, so that an image would depend on the others of its batch. Mapping
them over single images is not possible, since the slope closes over the labels and keys of the batch.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

# Dormand & Prince 1980, table 2, RK5(4)7M: nodes, stages (the last is the fifth-order solution), and its difference from the
# embedded fourth-order one.
NODES = np.array([0, 1 / 5, 3 / 10, 4 / 5, 8 / 9, 1, 1], np.float32)
STAGES = np.array(
  [
    [1 / 5, 0, 0, 0, 0, 0, 0],
    [3 / 40, 9 / 40, 0, 0, 0, 0, 0],
    [44 / 45, -56 / 15, 32 / 9, 0, 0, 0, 0],
    [19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729, 0, 0, 0],
    [9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656, 0, 0],
    [35 / 384, 0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84, 0],
  ],
  np.float32,
)
ERROR = np.array([71 / 57600, 0, -71 / 16695, 71 / 1920, -17253 / 339200, 22 / 525, -1 / 40], np.float32)

Slope = Callable[[Float[Array, 'b'], Float[Array, 'b d']], Float[Array, 'b d']]


def integrate(
  slope: Slope,
  y: Float[Array, 'b d'],
  start: Float[Array, ''],
  end: Float[Array, ''],
  rtol: float,
  atol: float,
  passed: Float[Array, 'n'] | None = None,
  max_steps: int = 1000,
) -> tuple[Float[Array, 'b d'], Int[Array, 'b'], Float[Array, 'n b d']]:
  """Solves dy/dt = slope(t, y). Returns y at `end`, the number of evaluations of each row, and y at the times `passed`.

  The values at `passed` are interpolated by the cubic Hermite polynomial of each step, without evaluations. A step is accepted
  if the root mean square of error / (atol + rtol max(|y|, |y_new|)) over the row is at most 1. Rows that do not reach `end` in
  `max_steps` attempts are NaN.
  """
  span = end - start
  longest = jnp.abs(span) / 16  # longer steps could miss the interval in which y changes
  rows = y.shape[0]
  passed = jnp.zeros(0) if passed is None else passed

  def attempt(carry):
    n, t, y, k, h, evaluations, way = carry
    going = t != end
    h = jnp.where(jnp.abs(h) >= jnp.abs(end - t), end - t, h)

    def stage(carry, turn):
      ks, _ = carry
      i, node, row = turn
      new = y + h[:, None] * jnp.tensordot(row, ks, 1)
      return (ks.at[i].set(slope(t + node * h, new)), new), None

    ks = jnp.zeros((7, *y.shape)).at[0].set(k)
    (ks, new), _ = jax.lax.scan(stage, (ks, y), (jnp.arange(1, 7), NODES[1:], STAGES))
    error = h[:, None] * jnp.tensordot(ERROR, ks, 1)
    error = jnp.sqrt(jnp.mean((error / (atol + rtol * jnp.maximum(jnp.abs(y), jnp.abs(new)))) ** 2, axis=1))
    accepted = going & (error <= 1)  # not where it is NaN
    factor = jnp.where(jnp.isfinite(error), jnp.clip(0.9 * jnp.maximum(error, 1e-10) ** -0.2, 0.2, 10.0), 0.2)
    u = lambda s: (s - t) / h  # noqa: E731
    cubic = lambda s: _hermite(u(s)[:, None], y, new, h[:, None] * k, h[:, None] * ks[-1])  # noqa: E731
    interpolated = lambda s, was: jnp.where((accepted & (u(s) >= 0) & (u(s) <= 1))[:, None], cubic(s), was)  # noqa: E731
    way = jax.vmap(interpolated)(passed, way)
    arrived = h == end - t
    t = jnp.where(accepted, jnp.where(arrived, end, t + h), t)
    y, k = (jnp.where(accepted[:, None], a, b) for a, b in ((new, y), (ks[-1], k)))
    h = jnp.where(going, jnp.sign(span) * jnp.minimum(jnp.abs(h * factor), longest), h)
    return n + 1, t, y, k, h, evaluations + jnp.where(going, 6, 0), way

  t = jnp.full(rows, start)
  carry = (
    0,
    t,
    y,
    slope(t, y),
    jnp.full(rows, 0.01 * span),
    jnp.ones(rows, jnp.int32),
    jnp.full((len(passed), *y.shape), jnp.nan),
  )
  going = lambda carry: (carry[0] < max_steps) & (carry[1] != end).any()  # noqa: E731
  _, t, y, _, _, evaluations, way = jax.lax.while_loop(going, attempt, carry)
  return jnp.where((t == end)[:, None], y, jnp.nan), evaluations, way


def _hermite(u, a, b, slope_a, slope_b):
  """The cubic from a at u = 0 to b at u = 1 with these slopes there."""
  v = 1 - u
  return v**2 * ((1 + 2 * u) * a + u * slope_a) + u**2 * ((1 + 2 * v) * b - v * slope_b)
