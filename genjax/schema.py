"""The schema of `config.json`, and the migration of earlier ones.

A run of this version has the schema number SCHEMA; a run without a number has schema 1. Runs of earlier schemas are migrated
whenever they are opened. To rewrite a run or a config file: `python -m genjax.migrate PATH`.
"""

from collections.abc import Collection, Mapping
from typing import Any

from genjax.errors import UsageError

SCHEMA = 2

# Schema 1 -> 2: the module of a class or function, relative to genjax.
MODULES = {
  'networks.schedule': 'networks.monotone',
  'objectives.aae': 'objectives.vae.aae',
  'objectives.adversarial': 'objectives.gan.losses',
  'objectives.augment': 'objectives.diffusion.augment',
  'objectives.autoregressive': 'objectives.autoregressive.pixels',
  'objectives.beta_tc': 'objectives.vae.beta_tc',
  'objectives.capacity_vae': 'objectives.vae.capacity',
  'objectives.consistency': 'objectives.diffusion.consistency',
  'objectives.diffusion': 'objectives.diffusion.diffusion',
  'objectives.gan': 'objectives.gan.gan',
  'objectives.gan_augment': 'objectives.gan.augment',
  'objectives.hierarchical_vae': 'objectives.vae.hierarchical',
  'objectives.iwae': 'objectives.vae.iwae',
  'objectives.learned_variance': 'objectives.diffusion.learned_variance',
  'objectives.meanflow': 'objectives.diffusion.meanflow',
  'objectives.penalties': 'objectives.gan.penalties',
  'objectives.pixel_vae': 'objectives.vae.pixel_vae',
  'objectives.predictions': 'objectives.diffusion.parameterizations',
  'objectives.progressive_gan': 'objectives.gan.progressive',
  'objectives.quantisers': 'objectives.codes.quantizers',
  'objectives.times': 'objectives.diffusion.times',
  'objectives.vae': 'objectives.vae.vae',
  'objectives.vdm': 'objectives.diffusion.vdm',
  'objectives.vqgan': 'objectives.codes.vqgan',
  'objectives.vqvae': 'objectives.codes.vqvae',
  'objectives.weightings': 'objectives.diffusion.weightings',
  'samplers.bound': 'samplers.elbo',
  'samplers.grids': 'samplers.timesteps',
}
# Module (of schema 2) and old name -> module and name.
CLASSES = {
  'objectives.diffusion.parameterizations.Karras': 'objectives.diffusion.parameterizations.EDMPrecond',
  'objectives.diffusion.times.Discrete': 'objectives.diffusion.times.DiscreteTimes',
  'objectives.gan.penalties.Consistency': 'objectives.gan.penalties.ConsistencyRegularization',
  'objectives.likelihoods.BinarisedBernoulli': 'objectives.likelihoods.BinarizedBernoulli',
  'objectives.likelihoods.BinarisedPatches': 'objectives.likelihoods.BinarizedPatches',
}
# Class (of schema 2) -> old field -> field, or '' where the class has none any more.
FIELDS: dict[str, dict[str, str]] = {
  'objectives.codes.vqgan.VQGAN': {'quantiser': 'quantizer'},
  'objectives.codes.vqvae.VQVAE': {'quantiser': 'quantizer'},
  'objectives.diffusion.diffusion.Diffusion': {'prediction': 'parameterization'},
  'objectives.diffusion.learned_variance.LearnedVariance': {'prediction': 'parameterization'},
  'objectives.vae.aae.SemiSupervisedAAE': {'labelled': 'labeled'},
  'objectives.vae.beta_tc.BetaTCVAE': {'images': '', 'free_bits': ''},
  'objectives.vae.capacity.CapacityVAE': {'beta': '', 'free_bits': ''},
  'objectives.vae.iwae.IWAE': {'beta': '', 'warmup': '', 'free_bits': ''},
  'samplers.sampler.Sampler': {'grid': 'timesteps'},
}
# Old option -> option, for messages.
OPTIONS = {old: new for fields in FIELDS.values() for old, new in fields.items() if new}
OPTIONS |= {'num_classes': 'conditioner', 'label_dropout': 'cond_dropout'}
SAMPLER = 'samplers.sampler.Sampler'
SOLVERS = {'langevin': 'predictor_corrector', 'dormand_prince': 'dopri5'}
SPELLINGS = {'neighbour': 'neighbor', 'binaris': 'binariz', 'quantis': 'quantiz', 'colour': 'color'}  # in protocols of cards


def renamed(option: str, known: Collection[str]) -> str:
  """' Its name is X now.' if `option` is the old name of an option in `known`, else ''."""
  new = OPTIONS.get(option)
  return f' Its name is {new} now.' if new in known else ''


def class_name(name: Any) -> Any:
  """The current name of a class or function, 'objectives.vae.vae.VAE', that was named `name` in schema 1."""
  if not isinstance(name, str):
    return name
  module, _, attribute = name.rpartition('.')
  name = f'{MODULES.get(module, module)}.{attribute}' if module else name
  return CLASSES.get(name, name)


def migrate_spec(value: Any) -> Any:
  """A tree of specs of schema 1 with the classes and fields of this version."""
  if isinstance(value, list):
    return [migrate_spec(item) for item in value]
  if not isinstance(value, Mapping):
    return value
  if 'cls' not in value:
    return {key: migrate_spec(item) for key, item in value.items()}
  name = class_name(value['cls'])
  fields = FIELDS.get(name, {}) if isinstance(name, str) else {}
  kept = {key: item for key, item in value.items() if key != 'cls' and fields.get(key, key)}
  migrated = {fields.get(key, key): migrate_spec(item) for key, item in kept.items()}
  if name == SAMPLER and isinstance(migrated.get('solver'), str):
    migrated['solver'] = SOLVERS.get(migrated['solver'], migrated['solver'])
  return {'cls': name} | migrated


def migrate_options(options: dict[str, Any]) -> dict[str, Any]:
  """Options of sampling, as cards of earlier versions have them."""
  return {key: item for key, item in migrate_spec({'cls': SAMPLER} | options).items() if key != 'cls'}


def american(value: Any) -> Any:
  """A JSON value whose strings have the spelling of this version."""
  if isinstance(value, Mapping):
    return {key: american(item) for key, item in value.items()}
  if isinstance(value, list):
    return [american(item) for item in value]
  if isinstance(value, str):
    for old, new in SPELLINGS.items():
      value = value.replace(old, new)
  return value


def migrate_objective(spec: dict[str, Any]) -> dict[str, Any]:
  """Migrates an objective of schema 1, which has the fields `num_classes` and `label_dropout` instead of a conditioner."""
  classes, dropout = spec.pop('num_classes', None), spec.pop('label_dropout', None)
  if classes is not None:
    conditioner = {'cls': 'conditioners.ClassLabel', 'classes': classes} if classes else {'cls': 'conditioners.Unconditional'}
    spec['conditioner'] = conditioner
  if dropout is not None:
    spec['cond_dropout'] = dropout
  return spec


def migrate(config: dict[str, Any]) -> dict[str, Any]:
  """The content of a `config.json` in the schema of this version. A config of this schema is returned unchanged.

  Raises:
    UsageError: the config has a schema that this version does not know.
  """
  schema = config.get('schema', 1)
  if not isinstance(schema, int) or isinstance(schema, bool) or not 1 <= schema <= SCHEMA:
    raise UsageError(f'schema {schema!r} is unknown; this version reads 1 to {SCHEMA}: use the version that wrote it.')
  if schema == SCHEMA:
    return config
  migrated = {'schema': SCHEMA} | {key: migrate_spec(item) for key, item in config.items() if key != 'schema'}
  if isinstance(objective := migrated.get('objective'), dict):
    migrated['objective'] = migrate_objective(objective)
  return migrated
