"""The training step, the core of genjax: read this first, then one objective, then one network.

`train_step` is a pure function of (state, batch, key) for every family of models: each player of the objective in turn
computes its loss, the step differentiates it with respect to that player's parameters alone, and the next player sees
the result. Everything that changes during training is in `TrainState`; no random state is (see genjax/rng.py).
"""

from collections.abc import Callable, Hashable, Mapping

import jax
import jax.numpy as jnp
import optax
from flax import struct
from flax.core import FrozenDict
from jaxtyping import Array, Float, Int, Key

from genjax import rng
from genjax.optim import AVERAGE, Average
from genjax.types import Batch, Context, Objective, Tree, Variables

NOTHING: Mapping[str, Variables] = FrozenDict()  # frozen


@struct.dataclass
class TrainState:
  """All that is saved. `params`, `opt_states` and `ema` are keyed by player (`params` also by frozen network)."""

  step: Int[Array, '']  # steps taken; ~step, a negative number, once a step was not finite
  params: dict[str, Tree]
  buffers: dict[str, Tree]  # non-trained variables: batch statistics, codebooks, ...
  opt_states: dict[str, Tree]
  ema: dict[str, Tree]  # what the run's `Average` keeps

  def variables(self, average: Average | None = AVERAGE) -> Variables:
    """Variables for `objective.sample`: averaged parameters, or the parameters themselves if `average` is None."""
    averaged = {name: average.select(tree) for name, tree in self.ema.items()} if average else {}
    return Variables({**self.params, **averaged}, self.buffers)


def init_state(
  objective: Objective,
  optimizers: Mapping[str, optax.GradientTransformation],
  key: Key[Array, ''],
  batch: Batch,
  average: Average = AVERAGE,
) -> TrainState:
  """The state before the first step. Call it under jit: outside, `ema` and `params` would share their buffers."""
  params, buffers = objective.init(key, batch)
  opt_states = {name: optimizers[name].init(params[name]) for name in objective.players}
  ema = {name: average.init(params[name]) for name in objective.players}
  return TrainState(jnp.zeros((), jnp.int32), params, buffers, opt_states, ema)


Turn = tuple[tuple[str, Hashable], ...]  # who plays at a step, each with its plan


def turn_at(objective: Objective, step: int) -> Turn:
  """The players that play at `step`, and their plans. Known on the host: a static argument of the compiled step."""
  plans = {name: player.plan(step) for name, player in objective.players.items()}
  return tuple((name, plan) for name, plan in plans.items() if plan is not None)


def player_keys(key: Key[Array, ''], step: Int[Array, ''], index: Int[Array, 'b'], player: int) -> Key[Array, 'b']:
  """The keys with which the `player`-th player plays at `step`; stream 0 is the data pipeline's."""
  return rng.fold_in(rng.image_keys(jax.random.fold_in(key, step), index), 1 + player)


def train_step(
  state: TrainState,
  batch: Batch,
  key: Key[Array, ''],  # the run's root key; the same at every step
  frozen: Mapping[str, Variables] = NOTHING,
  *,
  objective: Objective,
  optimizers: Mapping[str, optax.GradientTransformation],  # one per player
  turn: Turn,  # who plays
  average: Average = AVERAGE,
  data_size: int = 0,  # examples in the data set
  accumulate: int = 1,  # microbatches, unrolled: one after the other in the same program
  gather: Callable[[Tree], Tree] = lambda params: params,  # set where parameters are split over devices
  axis_name: str | None = None,  # set under pmap, where each device sees its own part of the batch
) -> tuple[TrainState, dict[str, Float[Array, '']]]:
  """One step of the game: the new state, and the scalars to log (`<player>/loss`, ... averaged over the batch)."""
  params, opt_states, buffers, metrics = dict(state.params), dict(state.opt_states), dict(state.buffers), {}
  plans = dict(turn)
  averaged = {name: average.select(tree) for name, tree in state.ema.items()}
  batch_size = batch.index.shape[0] * (jax.lax.axis_size(axis_name) if axis_name else 1)

  def mean_over_devices(tree):
    return jax.lax.pmean(tree, axis_name) if axis_name else tree

  for i, (name, player) in enumerate(objective.players.items()):
    if name not in plans:
      continue
    keys = player_keys(key, state.step, batch.index, i)

    def loss(player_params, buffers, batch, keys, name=name, player=player):
      context = Context(state.step, averaged, buffers, batch_size, data_size, plans[name])
      return player.loss(gather({**params, **frozen, name: player_params}), context, batch, keys)

    parts = []
    for j in range(accumulate):  # rows j, j + k, ...: each device keeps its own rows
      part, part_keys = jax.tree.map(lambda x, j=j: x[j::accumulate], (batch, keys))
      (value, aux), grads = jax.value_and_grad(loss, has_aux=True)(params[name], buffers, part, part_keys)
      parts.append((grads, aux.buffers, {f'{name}/loss': value, **aux.metrics}))
    grads, changed, logs = mean_over_devices(jax.tree.map(lambda *xs: sum(xs) / accumulate, *parts))
    buffers |= changed
    before = opt_states[name]
    updates, opt_states[name] = optimizers[name].update(grads, before, params[name])
    if hasattr(before, 'skipped'):  # an optimizer that counts what it leaves out
      logs[f'{name}/skipped'] = (opt_states[name].skipped - before.skipped).astype(jnp.float32)
    params[name] = optax.apply_updates(params[name], updates)
    metrics |= logs | {f'{name}/grad_norm': optax.tree.norm(grads)}

  ema = {name: average.update(tree, params[name], state.step, batch_size) for name, tree in state.ema.items()}
  after = TrainState(state.step + 1, params, buffers, opt_states, ema)

  # A step that is not finite halts the game: it leaves the state as it was, its number turned to ~step, and so do all after.
  finite = jnp.stack([jnp.isfinite(value) for value in metrics.values()]).all() & (state.step >= 0)
  halted = state.replace(step=jnp.where(state.step < 0, state.step, ~state.step))
  return jax.tree.map(lambda new, old: jnp.where(finite, new, old), after, halted), metrics
