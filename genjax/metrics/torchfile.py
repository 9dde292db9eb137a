"""The arrays in a file written by torch.save, read without torch and without unpickling: nothing in the file can run.

The pickle inside is followed opcode by opcode with the few that a dictionary of tensors needs; names stay names. Both
formats are read: the archive of torch 1.6 and later, and the stream of earlier ones.
"""

import io
import pickletools
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from genjax import rng
from genjax.errors import UsageError

STORAGES = {
  'FloatStorage': '<f4', 'DoubleStorage': '<f8', 'HalfStorage': '<f2', 'LongStorage': '<i8', 'IntStorage': '<i4',
  'ShortStorage': '<i2', 'CharStorage': 'i1', 'ByteStorage': 'u1', 'BoolStorage': '?',
}  # fmt: skip
LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
PUSHED = {
  'BINUNICODE', 'SHORT_BINUNICODE', 'BINUNICODE8', 'UNICODE', 'BININT', 'BININT1', 'BININT2', 'INT', 'LONG', 'LONG1', 'LONG4',
  'BINFLOAT', 'FLOAT', 'BINBYTES', 'SHORT_BINBYTES', 'BINSTRING', 'SHORT_BINSTRING', 'STRING',
}  # fmt: skip


class Name(NamedTuple):
  """What a pickle calls a class or function; never looked up."""

  path: str  # 'collections OrderedDict'


class Tensor(NamedTuple):
  """Where an array lies."""

  dtype: str
  key: str
  offset: int
  shape: tuple[int, ...]
  stride: tuple[int, ...]


class Mark:
  """Where a tuple, a list or a run of items begins on the stack."""


def read_tensors(path: Path) -> dict[str, np.ndarray]:
  """Name -> array of the dictionary of tensors in a .pth or .pt file.

  Raises:
    UsageError: the file cannot be read, or holds something other than named tensors.
  """
  try:
    data = Path(path).read_bytes()
    tensors, storages = _archive(data) if zipfile.is_zipfile(io.BytesIO(data)) else _stream(data)
    return {name: _array(tensor, storages) for name, tensor in tensors.items() if isinstance(tensor, Tensor)}
  except OSError as error:
    raise UsageError(f'{path} cannot be read: {error.strerror or error}.') from None
  except (
    ValueError,
    KeyError,
    IndexError,
    TypeError,
    AttributeError,
    OverflowError,
    RuntimeError,
    zipfile.BadZipFile,
  ) as error:
    raise UsageError(f'{path} is not a file of named tensors written by torch.save ({error}).') from None


def _archive(data: bytes):
  with zipfile.ZipFile(io.BytesIO(data)) as archive:
    (root,) = [name.removesuffix('data.pkl') for name in archive.namelist() if name.endswith('/data.pkl')]
    tensors = follow(archive.read(root + 'data.pkl'))
    keys = {tensor.key for tensor in tensors.values() if isinstance(tensor, Tensor)}
    return tensors, {key: archive.read(f'{root}data/{key}') for key in keys}


def _stream(data: bytes):
  file = io.BytesIO(data)
  if follow(file) != LEGACY_MAGIC:
    raise ValueError('it does not begin as one')
  follow(file)  # version of the protocol
  follow(file)  # sizes of integers where it was written
  tensors = follow(file)
  kinds = {tensor.key: np.dtype(tensor.dtype) for tensor in tensors.values() if isinstance(tensor, Tensor)}
  storages = {}
  for key in follow(file):
    count = int.from_bytes(file.read(8), 'little')
    storages[key] = file.read(count * kinds[key].itemsize)
  return tensors, storages


def _array(tensor: Tensor, storages: dict[str, bytes]) -> np.ndarray:
  flat = np.frombuffer(storages[tensor.key], tensor.dtype)
  steps = [n - 1 for n in tensor.shape]
  last = tensor.offset + sum(step * stride for step, stride in zip(steps, tensor.stride, strict=True))
  if min((tensor.offset, *tensor.stride, *tensor.shape)) < 0 or (0 not in tensor.shape and last >= len(flat)):
    raise ValueError('a tensor reaches beyond its storage')
  bytes_apart = [stride * flat.itemsize for stride in tensor.stride]
  return np.lib.stride_tricks.as_strided(flat[tensor.offset :], tensor.shape, bytes_apart).copy()


def follow(source: bytes | io.BytesIO) -> Any:
  """What one pickle describes: plain values, dictionaries, and Tensors."""
  stack, memo = [], {}

  def since_mark() -> list:
    place = max(i for i, value in enumerate(stack) if isinstance(value, Mark))
    items = stack[place + 1 :]
    del stack[place:]
    return items

  for opcode, argument, _ in pickletools.genops(source):
    name = opcode.name
    if name in PUSHED:
      stack.append(argument)
    elif name in ('PROTO', 'FRAME'):
      pass
    elif name == 'STOP':
      return stack.pop()
    elif name == 'MARK':
      stack.append(Mark())
    elif name in ('NONE', 'NEWTRUE', 'NEWFALSE'):
      stack.append({'NONE': None, 'NEWTRUE': True, 'NEWFALSE': False}[name])
    elif name in ('EMPTY_DICT', 'EMPTY_LIST', 'EMPTY_TUPLE'):
      stack.append({'EMPTY_DICT': dict, 'EMPTY_LIST': list, 'EMPTY_TUPLE': tuple}[name]())
    elif name in ('TUPLE', 'LIST', 'DICT'):
      items = since_mark()
      stack.append(
        dict(zip(items[::2], items[1::2], strict=True)) if name == 'DICT' else (tuple if name == 'TUPLE' else list)(items)
      )
    elif name in ('TUPLE1', 'TUPLE2', 'TUPLE3'):
      n = int(name[-1])
      stack[-n:] = [tuple(stack[-n:])]
    elif name in ('BINPUT', 'LONG_BINPUT', 'PUT'):
      memo[int(argument)] = stack[-1]
    elif name == 'MEMOIZE':
      memo[len(memo)] = stack[-1]
    elif name in ('BINGET', 'LONG_BINGET', 'GET'):
      stack.append(memo[int(argument)])
    elif name in ('SETITEM', 'SETITEMS'):
      items = since_mark() if name == 'SETITEMS' else [stack.pop(-2), stack.pop()]
      stack[-1].update(zip(items[::2], items[1::2], strict=True))
    elif name in ('APPEND', 'APPENDS'):
      items = since_mark() if name == 'APPENDS' else [stack.pop()]
      stack[-1].extend(items)
    elif name == 'GLOBAL':
      stack.append(Name(argument))
    elif name == 'STACK_GLOBAL':
      stack[-2:] = [Name(f'{stack[-2]} {stack[-1]}')]
    elif name == 'BINPERSID':
      stack.append(stack.pop())  # ('storage', class, key, device, length): its tensor says the rest
    elif name == 'REDUCE':
      arguments = stack.pop()
      stack.append(_made(stack.pop(), arguments))
    elif name == 'BUILD':
      stack.pop()  # attributes of a dictionary, such as _metadata
    else:
      raise ValueError(f'opcode {name}')
  raise ValueError('it ends early')


def _made(function: Name, arguments: tuple) -> Any:
  if function.path == 'collections OrderedDict':
    return dict(*arguments)
  if function.path == 'torch._utils _rebuild_tensor_v2':
    (_, storage, key, *_), offset, shape, stride, *_ = arguments
    return Tensor(STORAGES[storage.path.removeprefix('torch ')], str(key), int(offset), tuple(shape), tuple(stride))
  if function.path == 'torch._utils _rebuild_parameter':
    return arguments[0]
  raise ValueError(f'it names {function.path}')


def convert(
  network: nn.Module, side: int, tensors: Mapping[str, np.ndarray], norm_of: Callable[[str], str | None], file: str
) -> dict:
  """Parameters of a Flax network whose modules have the names of the PyTorch one, batch normalisation (eps 1e-3) folded in.

  Args:
    network: of images [B, side, side, 3], its modules named as the tensors are, up to '.weight' and '.bias'.
    norm_of: name of a convolution -> that of the normalisation after it; None for a dense layer.
    file: what the tensors should have come from, for the error.

  Raises:
    UsageError: an array is missing or has another shape.
  """
  like = jax.eval_shape(network.init, rng.key(0), jnp.zeros((1, side, side, 3)))['params']

  def array(name):
    if name not in tensors:
      raise UsageError(f'the weights have no array {name}: not the file {file}.')
    return np.asarray(tensors[name], np.float64)

  def value(path, leaf):
    *modules, kind = (part.key for part in path)
    name = '.'.join(modules)
    norm = norm_of(name)
    if norm is None:
      found = array(f'{name}.weight').T if kind == 'kernel' else array(f'{name}.bias')
    else:
      scale = array(f'{norm}.weight') / np.sqrt(array(f'{norm}.running_var') + 1e-3)
      if kind == 'kernel':
        found = array(f'{name}.weight').transpose(2, 3, 1, 0) * scale
      else:
        found = array(f'{norm}.bias') - array(f'{norm}.running_mean') * scale
    if found.shape != leaf.shape:
      raise UsageError(f'the weights have {name} of shape {found.shape}, not {leaf.shape}: not the file {file}.')
    return found.astype(np.float32)

  return jax.tree_util.tree_map_with_path(value, like)
