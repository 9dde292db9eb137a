"""Builds objects from specs, {'cls': 'networks.unet.UNet', **kwargs} -> object.

A name is a path inside genjax: package, module, name. Nothing else resolves, so a config read from a stranger's run
directory can name the classes and functions of these packages and no other code, but for packages that the user allows.
"""

import dataclasses
import importlib
import importlib.util
import inspect
import math
import pkgutil
import sys
import types
import typing
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

import optax

from genjax.errors import UsageError, nearest, unknown
from genjax.schema import class_name

PACKAGES = ('conditioners', 'networks', 'objectives', 'samplers', 'optim')
INFERRED = ('image_shape', 'classes', 'dtype')  # parameters that follow from the data and the run; a spec may leave them out
PLAIN = (bool, int, float, str, tuple)
VAR_KEYWORD = inspect.Parameter.VAR_KEYWORD
OPTAX = ('optax', 'optax.contrib')  # of which a config may name what makes an optimizer or a schedule


def resolve(name: str, allow: Collection[str] = ()) -> Callable:
  """The class or function of that name, e.g. 'networks.unet.UNet' or 'optim.adam'.

  Args:
    name: relative to genjax; or from the root of a package in `allow`, 'mine.unet.UNet', defined in that module.
    allow: further packages. Naming one lets a config run any function in it.

  Raises:
    UsageError: the name is not a public one defined in the packages above; near names are suggested.
  """
  if not isinstance(name, str) or not all(part.isidentifier() for part in name.split('.')):
    raise UsageError(f'cls={name!r} is not a name like networks.unet.UNet.')
  allow = [allow] if isinstance(allow, str) else allow
  module_name, _, attribute = name.rpartition('.')
  if module_name.split('.')[0] in PACKAGES and not attribute.startswith('_'):
    path = f'genjax.{module_name}'
    if module_name in _modules():
      target = getattr(importlib.import_module(path), attribute, None)
      if callable(target) and getattr(target, '__module__', None) == path:
        return target
  if module_name.split('.')[0] in allow:
    try:
      target = getattr(importlib.import_module(module_name), attribute, None)
    except ModuleNotFoundError as error:
      raise UsageError(f'cls={name!r}: {error}.') from None
    if callable(target) and getattr(target, '__module__', None) == module_name:
      return target
    raise UsageError(f'cls={name!r}: {module_name} defines no class or function {attribute!r}.')
  if module_name in OPTAX:
    target = getattr(importlib.import_module(module_name), attribute, None)
    if not attribute.startswith('_') and makes_optimizer(target):
      return target
    parts = [part for part, value in vars(importlib.import_module(module_name)).items() if makes_optimizer(value)]
    raise UsageError(f'cls={name!r} is not an optimizer or schedule of optax.' + nearest(attribute, parts))
  if package := _package_of(name):
    raise UsageError(f'cls={name!r} is not of genjax. If you trust the code of {package}, add --allow_package {package}.')
  if (new := class_name(name)) != name:
    raise UsageError(f'cls={name!r} has a new name: {new}. To rewrite a config file: python -m genjax.migrate FILE.')
  raise UsageError(unknown('class or function', name, _names()))


def makes_optimizer(value: Any) -> bool:
  """Whether a value is a function that returns an optimizer or a schedule of optax, by its annotation."""
  if not inspect.isfunction(value):
    return False
  annotation = inspect.signature(value).return_annotation
  return annotation in (optax.GradientTransformation, optax.GradientTransformationExtraArgs, optax.Schedule)


def _package_of(name: Any) -> str:
  """The package other than genjax that the name begins with; '' if there is none to import."""
  package, dot, _ = name.partition('.') if isinstance(name, str) else ('', '', '')
  if not package.isidentifier() or not dot or package in (*PACKAGES, 'genjax', 'optax', '__main__', *sys.stdlib_module_names):
    return ''
  return package if importlib.util.find_spec(package) else ''


def _modules() -> list[str]:
  """The modules of PACKAGES, relative to genjax."""
  modules = []
  for package in PACKAGES:
    module = importlib.import_module(f'genjax.{package}')
    if hasattr(module, '__path__'):
      infos = pkgutil.walk_packages(module.__path__, f'genjax.{package}.')
      modules += [info.name.removeprefix('genjax.') for info in infos if not info.ispkg]
    else:
      modules.append(package)
  return modules


def _names() -> list[str]:
  names = []
  for module_name in _modules():
    module = importlib.import_module(f'genjax.{module_name}')
    names += [
      f'{module_name}.{name}'
      for name, value in vars(module).items()
      if not name.startswith('_') and callable(value) and getattr(value, '__module__', None) == module.__name__
    ]
  return names


def parameters(function: Callable) -> dict[str, inspect.Parameter]:
  """The parameters that a config may set: all but linen's own `parent` and `name`."""
  known = inspect.signature(function).parameters
  linen = ('parent', 'name') if 'parent' in known else ()
  return {key: parameter for key, parameter in known.items() if key not in linen}


def defaults(function: Callable) -> dict[str, Any]:
  """The defaults in a signature, so that no config repeats them: plain ones, and genjax's own objects as specs."""
  values = {k: v.default for k, v in parameters(function).items()}
  own = {k: _spec_of(v) for k, v in values.items() if dataclasses.is_dataclass(v) and type(v).__module__.startswith('genjax.')}
  return {k: v for k, v in values.items() if type(v) in PLAIN} | own  # no named tuples


def as_spec(value: Any) -> Any:
  """A dataclass as the spec that describes it, for JSON; other values unchanged."""
  return _spec_of(value) if dataclasses.is_dataclass(value) and not isinstance(value, type) else value


def _spec_of(value: Any) -> dict[str, Any]:
  kind = type(value)
  return {'cls': f'{kind.__module__.removeprefix("genjax.")}.{kind.__name__}'} | dataclasses.asdict(value)


def own_defaults(function: Callable) -> dict[str, Any]:
  """`defaults` without the parameters that follow from data and run."""
  return {key: value for key, value in defaults(function).items() if key not in INFERRED}


def check(function: Callable, name: str, kwargs: Mapping[str, Any]) -> None:
  """Raises UsageError for a parameter that `function` lacks, one that it needs and does not get, or a wrong type."""
  known = parameters(function)
  any_name = any(parameter.kind is VAR_KEYWORD for parameter in known.values())
  known = {key: p for key, p in known.items() if p.kind not in (p.VAR_POSITIONAL, VAR_KEYWORD)}
  for key, value in kwargs.items():
    if key not in known and any_name:
      continue
    if key not in known:
      raise UsageError(unknown('parameter', key, known, owner=name))
    expected = known[key].annotation
    if not matches_type(value, expected):
      kind = expected if typing.get_origin(expected) else getattr(expected, '__name__', expected)
      parts = value if isinstance(value, (tuple, list)) else (value,)
      finite = 'finite: ' if any(isinstance(x, float) and not math.isfinite(x) for x in parts) else ''
      kind = 'numbers in a tuple, as (0.2, 3.0)' if str(kind) == 'tuple[float, ...]' else kind
      raise UsageError(f'{name}: {key}={value!r} must be {finite}{kind}.')
    sizes = value if isinstance(value, tuple) else (value,)
    if name.startswith('networks.') and any(
      isinstance(size, int) and not isinstance(size, bool) and size < 1 for size in sizes
    ):
      raise UsageError(f'{name}: {key}={value!r} must be 1 or more.')
    if name.startswith('networks.') and key == 'dropout' and not 0 <= value < 1:
      raise UsageError(f'{name}: dropout={value!r} must be in [0, 1).')
  for key, parameter in known.items():
    if parameter.default is inspect.Parameter.empty and key not in kwargs and key not in INFERRED:
      raise UsageError(f'{name} needs {key!r}: set {key}=... in the config.')


def matches_type(value: Any, expected: Any) -> bool:
  """Whether a value has the annotated type, as far as that is a plain class, tuple or union; specs are built later."""
  if expected in (inspect.Parameter.empty, Any):
    return True
  if 'cls' in value if isinstance(value, Mapping) else hasattr(value, 'get'):
    return True  # a spec, or ml_collections' reference to another value
  if typing.get_origin(expected) is tuple:
    item = typing.get_args(expected)[0]
    return isinstance(value, (tuple, list)) and all(matches_type(x, item) for x in value)
  if expected in (int, float):
    kinds = int if expected is int else (int, float)
    return isinstance(value, kinds) and not isinstance(value, bool) and math.isfinite(value)
  if typing.get_origin(expected) in (typing.Union, types.UnionType):
    return any(matches_type(value, option) for option in typing.get_args(expected))
  if typing.get_origin(expected) is typing.Literal:
    return value in typing.get_args(expected)
  if typing.get_origin(expected) is Callable:
    return callable(value)  # a schedule
  if isinstance(typing.get_origin(expected), type) and issubclass(typing.get_origin(expected), Mapping):
    return isinstance(value, Mapping)
  if typing.get_origin(expected) is not None:
    return isinstance(value, (tuple, list)) if typing.get_origin(expected) in (list, Sequence, Iterable) else True
  return not isinstance(expected, type) or isinstance(value, expected)


def with_integer_keys(value: Any, parameter: inspect.Parameter | None) -> Any:
  """A dictionary whose keys are integers by its annotation; those of JSON and of configs are strings."""
  options = typing.get_args(parameter.annotation) if parameter else ()
  annotations = (parameter.annotation, *options) if parameter else ()
  if isinstance(value, dict) and any(typing.get_origin(a) is dict and typing.get_args(a)[0] is int for a in annotations):
    return {int(key) if str(key).isdecimal() else key: item for key, item in value.items()}
  return value


def spec(cls: str, **kwargs) -> dict[str, Any]:
  """For config files: a checked spec {'cls': cls, ...} with every plain default written out, so each can be overridden.

  `cls` is a name in genjax or in your own package, 'mine.unet.UNet', which needs `--allow_package mine`.
  """
  function = resolve(cls, [_package_of(cls)])
  check(function, cls, kwargs)
  return {'cls': cls} | own_defaults(function) | kwargs


def fill_inferred(value: Any, inferred: Mapping[str, Any], allow: Collection[str] = ()) -> Any:
  """A spec with the parameters in `inferred` filled in, at every depth, where its class has them and it leaves them out."""
  if isinstance(value, (list, tuple)):
    return tuple(fill_inferred(item, inferred, allow) for item in value)
  if not isinstance(value, Mapping):
    return value
  filled = {key: fill_inferred(item, inferred, allow) for key, item in value.items()}
  if 'cls' in value:
    known = parameters(resolve(value['cls'], allow))
    filled = {key: item for key, item in inferred.items() if key in known} | filled
  return filled


def with_defaults(value: Any, allow: Collection[str] = ()) -> Any:
  """A spec with every plain default that it leaves out, at every depth."""
  if isinstance(value, (list, tuple)):
    return tuple(with_defaults(item, allow) for item in value)
  if not isinstance(value, Mapping):
    return value
  filled = {key: with_defaults(item, allow) for key, item in value.items()}
  return own_defaults(resolve(value['cls'], allow)) | filled if 'cls' in value else filled


def without_leftovers(
  config: Mapping[str, Any], replaced: Collection[str], allow: Collection[str] = ()
) -> tuple[dict, list[str]]:
  """A config without the parameters of the class before in specs whose `cls` is another now, and the names of these.

  Args:
    config: sections of specs.
    replaced: the specs, as 'objective.loss'.
    allow: as in `resolve`.
  """

  left_out: list[str] = []

  def pruned(value, path):
    if not isinstance(value, Mapping):
      return value
    known = parameters(resolve(value['cls'], allow)) if path in replaced else value
    kept = {}
    for key, item in value.items():
      if key == 'cls' or key in known:
        kept[key] = pruned(item, f'{path}.{key}' if path else key)
      else:
        left_out.append(f'{path}.{key}')
    return kept

  return pruned(config, ''), left_out


def build(value: Any, allow: Collection[str] = ()) -> Any:
  """The object that a spec describes. Lists become tuples, nested specs objects. `allow` as in `resolve`.

  Raises:
    UsageError: an unknown name or parameter, or a value that the class refuses.
  """
  if isinstance(value, (list, tuple)):
    return tuple(build(item, allow) for item in value)
  if not isinstance(value, Mapping):
    return value
  if 'cls' not in value:
    return {key: build(item, allow) for key, item in value.items()}
  name = value['cls']
  function = resolve(name, allow)
  kwargs = {key: build(item, allow) for key, item in value.items() if key != 'cls'}
  kwargs = {key: with_integer_keys(item, parameters(function).get(key)) for key, item in kwargs.items()}
  check(function, name, kwargs)
  missing = [key for key in INFERRED if key in parameters(function) and key not in kwargs]
  missing = [key for key in missing if parameters(function)[key].default is inspect.Parameter.empty]
  if missing:
    raise UsageError(f'{name} needs {missing[0]!r}: fill it in first (genjax.build.fill_inferred).')
  return function(**kwargs)
