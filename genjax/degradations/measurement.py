"""Measurements y = A(x) + noise n of images: operators one after the other, and Gaussian noise."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from genjax import rng
from genjax.degradations.operators import Mask, Operator, Shape, State
from genjax.errors import UsageError
from genjax.types import Images, Keys

CG_STEPS = 50  # of conjugate gradients, where a step needs A and A^T alone


@dataclasses.dataclass(frozen=True)
class Degradation:
  """A = A_k ... A_1 of `operators` (A_1, ..., A_k), and noise of standard deviation `noise`, in units of images in [-1, 1].

  Without operators it is denoising. The state has one entry per operator.
  """

  operators: tuple[Operator, ...] = ()
  noise: float = 0.0

  def __post_init__(self):
    if not 0 <= self.noise < float('inf'):
      raise UsageError(f'noise={self.noise} must not be negative, and must be finite.')
    object.__setattr__(self, 'operators', tuple(self.operators))

  @property
  def is_linear(self) -> bool:
    return all(operator.is_linear for operator in self.operators)

  def draw(self, keys: Keys, shape: Shape) -> tuple[State, ...]:
    """The state for one image of `shape` per key. Raises UsageError if an operator cannot be applied to such images."""
    states = []
    for i, operator in enumerate(self.operators):
      states.append(operator.draw(rng.fold_in(keys, i), shape))
      example = jax.ShapeDtypeStruct((len(keys), *shape), jnp.float32)
      shape = jax.eval_shape(functools.partial(operator.apply, states[-1]), example).shape[1:]
    return tuple(states)

  def apply(self, state: tuple[State, ...], x: Images) -> Images:
    """A(x), without noise."""
    for operator, operator_state in zip(self.operators, state, strict=True):
      x = operator.apply(operator_state, x)
    return x

  def measure(self, state: tuple[State, ...], x: Images, keys: Keys) -> Images:
    """A(x) + noise n, n ~ N(0, I)."""
    y = self.apply(state, x)
    return y + self.noise * rng.normal(rng.fold_in(keys, len(self.operators)), y.shape[1:]) if self.noise else y


def check_measurement(degradation: Degradation, state: tuple[State, ...], y: Images, shape: Shape) -> None:
  """Raises UsageError unless `y` has the shape that `degradation` makes of images of `shape`, and the state fits."""
  names = [type(operator).__name__ for operator in degradation.operators]
  if len(state) != len(names):
    raise UsageError(f'state has {len(state)} entries, but needs one for each of {", ".join(names) or "no operators"}.')
  if y.ndim != 4 or not len(y):
    raise UsageError(f'measurement {list(y.shape)} must be [N, H, W, C].')
  if not bool(jnp.isfinite(y).all()):
    raise UsageError('measurement has values that are not finite: use 0 for pixels that are not known.')
  try:
    expected = jax.eval_shape(degradation.apply, state, jax.ShapeDtypeStruct((len(y), *shape), jnp.float32)).shape
  except KeyError as error:
    raise UsageError(f'state: {error} is missing; draw it with degradation.draw(keys, {shape}), or set it.') from None
  except (TypeError, ValueError) as error:
    raise UsageError(f'state does not fit {len(y)} images of {shape}: {str(error).splitlines()[0]}') from None
  if expected != y.shape:
    raise UsageError(
      f'measurement {list(y.shape)} must be {list(expected)}, which {" and ".join(names) or "noise"} makes of {shape}.'
    )


class LinearMap:
  """A linear degradation of images of `shape` with a given state, as functions of arrays: A without its constant part A(0)."""

  def __init__(self, degradation: Degradation, state: tuple[State, ...], y: Images, shape: Shape):
    if not degradation.is_linear:
      names = ', '.join(type(operator).__name__ for operator in degradation.operators if not operator.is_linear)
      raise UsageError(f'{names} is not linear: use a method for operators that are not linear.')
    self.degradation, self.state, self.shape = degradation, state, (y.shape[0], *shape)
    self.constant = degradation.apply(state, jnp.zeros(self.shape))
    self.y = y - self.constant
    self.transpose = jax.linear_transpose(self.apply, jax.ShapeDtypeStruct(self.shape, jnp.float32))

  def apply(self, x: Images) -> Images:
    """A x."""
    return self.degradation.apply(self.state, x) - self.constant

  def adjoint(self, y: Images) -> Images:
    """A^T y."""
    return self.transpose(y)[0]

  def project(self, x: Images) -> Images:
    """The image nearest to x with A x = y. Pixels that a mask leaves are those of y, bit for bit."""
    operators = self.degradation.operators
    if len(operators) == 1 and isinstance(operators[0], Mask):
      return jnp.where(self.state[0]['known'] > 0, self.y, x)
    return x + self.pseudo_inverse(self.y - self.apply(x))

  def pseudo_inverse(self, y: Images) -> Images:
    """A^+ y: the closed form of a single operator, else A^T (A A^T)^+ y by conjugate gradients."""
    operators = self.degradation.operators
    if not operators:
      return y
    if len(operators) == 1:
      x = operators[0].pseudo_inverse(self.state[0], y, self.shape[1:])
      if x is not None:
        return x
    return self.adjoint(conjugate_gradients(lambda v: self.apply(self.adjoint(v)), y, CG_STEPS))


def conjugate_gradients(matrix, b: Float[Array, 'b ...'], steps: int) -> Float[Array, 'b ...']:
  """`steps` steps of conjugate gradients from 0 for `matrix(v) = b`, independently for each image.

  For a singular positive semi-definite matrix and a b in its range, it converges to the solution of least norm.
  """
  dot = lambda u, v: (u * v).sum(axis=tuple(range(1, u.ndim)), keepdims=True)  # noqa: E731
  first = dot(b, b)

  def step(_, carry):
    x, r, p, rr = carry
    ap = matrix(p)
    curvature = dot(p, ap)
    moves = (rr > 1e-12 * first) & (curvature > 0)  # false once it has converged to rounding
    length = jnp.where(moves, rr / jnp.where(moves, curvature, 1), 0)
    x, r = x + length * p, r - length * ap
    new = dot(r, r)
    return x, r, r + jnp.where(moves, new / jnp.where(moves, rr, 1), 0) * p, new

  return jax.lax.fori_loop(0, steps, step, (jnp.zeros_like(b), b, b, first))[0]
