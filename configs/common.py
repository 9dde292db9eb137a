"""The base of all configs: the sections `data` and `train` with all their options."""

from ml_collections import ConfigDict

from genjax.config import section_defaults


def base(name: str = '', resolution: int = 0, *, steps: int, batch_size: int) -> ConfigDict:
  """The sections `data` and `train` for a data set, its resolution, and the number and size of the steps.

  Other options have the defaults of the signatures. Without `name`, set `config.data.source` to the spec of your own class.
  """
  sections = {'data': {'name': name, 'resolution': resolution}, 'train': {'steps': steps, 'batch_size': batch_size}}
  return ConfigDict({section: options | sections[section] for section, options in section_defaults().items()})
