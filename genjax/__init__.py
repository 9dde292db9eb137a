"""genjax: image generators in JAX. `genjax.load('runs/x').sample(jax.random.key(0), 16)` opens a trained one."""

from genjax.images import make_grid
from genjax.run import load

__all__ = ['load', 'make_grid']
