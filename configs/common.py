"""What every config starts from: the sections `data` and `train` with all their options."""

from ml_collections import ConfigDict

from genjax.build import defaults
from genjax.data.pipeline import Pipeline
from genjax.data.sources import open_data
from genjax.workdir import Training


def base(name: str, resolution: int, steps: int, batch_size: int) -> ConfigDict:
  """Data set, side of its images, length and batch size; the defaults of the rest are those of the signatures."""
  config = ConfigDict()
  config.data = defaults(open_data) | {'flip': defaults(Pipeline)['flip'], 'name': name, 'resolution': resolution}
  config.train = defaults(Training) | {'steps': steps, 'batch_size': batch_size}
  return config
