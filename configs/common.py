"""The base of all configs: the sections `data` and `train` with all their options."""

from ml_collections import ConfigDict

from genjax.config import section_defaults


def base(name: str = '', resolution: int = 0, *, steps: int, batch_size: int) -> ConfigDict:
  """Data set, side of its images, length and batch size; the defaults of the rest are those of the signatures.

  Without a data set, set `config.data.source` to the spec of a class of your own.
  """
  given = {'data': {'name': name, 'resolution': resolution}, 'train': {'steps': steps, 'batch_size': batch_size}}
  return ConfigDict({section: options | given[section] for section, options in section_defaults().items()})
