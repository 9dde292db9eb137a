"""One of two hosts, for test_pipeline.py: two_hosts.py PORT PROCESS OUT writes the rows of four batches that this one reads."""

import sys

import jax
import numpy as np

jax.config.update('jax_num_cpu_devices', 2)
jax.distributed.initialize(f'127.0.0.1:{sys.argv[1]}', num_processes=2, process_id=int(sys.argv[2]))

from genjax.data.pipeline import Pipeline  # noqa: E402
from genjax.data.transforms import Flip  # noqa: E402
from genjax.parallel import make_mesh  # noqa: E402
from tests.test_pipeline import KEY, Streamed, arrays  # noqa: E402

rows = []
for source in (arrays(), Streamed(arrays())):
  pipeline = Pipeline(source, 8, KEY, seed=3, mesh=make_mesh(), transforms=(Flip(),))
  assert pipeline.mine.tolist() == list(range(4 * jax.process_index(), 4 * jax.process_index() + 4))
  for t in range(4):
    shards = pipeline(t).image.addressable_shards
    rows.append(np.concatenate([s.data for s in sorted(shards, key=lambda s: s.index[0].start)]))
  pipeline.close()
np.savez(sys.argv[3], *rows)
