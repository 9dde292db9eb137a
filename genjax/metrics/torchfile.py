"""Reads the arrays in a file written by torch.save, without torch and without executing code in the file.

The pickle may refer only to the names in ALLOWED. Both formats are supported: the archive of torch 1.6 and later, and the
stream of earlier versions.
"""

import collections
import io
import pickle
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from genjax.errors import UsageError

LEGACY_MAGIC = 0x1950A86A20F9469CFC6C


class Tensor(NamedTuple):
  """The position of an array in a storage."""

  dtype: str
  key: str
  offset: int
  shape: tuple[int, ...]
  stride: tuple[int, ...]


class RebuildTensor:
  """Replaces torch._utils._rebuild_tensor_v2. It has no `__dict__`, so that a file cannot set attributes."""

  __slots__ = ()

  def __call__(self, storage, offset, shape, stride, *rest) -> Tensor:
    _, dtype, key, *_ = storage
    return Tensor(dtype, str(key), int(offset), tuple(shape), tuple(stride))


class RebuildParameter:
  """Replaces torch._utils._rebuild_parameter."""

  __slots__ = ()

  def __call__(self, tensor: Tensor, *rest) -> Tensor:
    return tensor


ALLOWED: dict[tuple[str, str], Any] = {
  ('collections', 'OrderedDict'): collections.OrderedDict,
  ('torch._utils', '_rebuild_tensor_v2'): RebuildTensor(),
  ('torch._utils', '_rebuild_parameter'): RebuildParameter(),
  ('torch', 'FloatStorage'): '<f4',
  ('torch', 'DoubleStorage'): '<f8',
  ('torch', 'HalfStorage'): '<f2',
  ('torch', 'LongStorage'): '<i8',
  ('torch', 'IntStorage'): '<i4',
  ('torch', 'ShortStorage'): '<i2',
  ('torch', 'CharStorage'): 'i1',
  ('torch', 'ByteStorage'): 'u1',
  ('torch', 'BoolStorage'): '?',
}


class Unpickler(pickle.Unpickler):
  """Loads a pickle of plain values, dictionaries and tensors. Raises UnpicklingError for any other name."""

  def find_class(self, module: str, name: str) -> Any:
    try:
      return ALLOWED[module, name]
    except KeyError:
      raise pickle.UnpicklingError(f'it refers to {module}.{name}') from None

  def persistent_load(self, pid: tuple) -> tuple:
    """Returns ('storage', dtype, key, device, length) unchanged; the tensor has the offset, shape and strides."""
    return pid


def read_tensors(path: Path) -> dict[str, np.ndarray]:
  """Name -> array of the dictionary of tensors in a .pth or .pt file.

  Raises:
    UsageError: the file cannot be read, or contains something other than named tensors.
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
    EOFError,
    MemoryError,
    ImportError,
    pickle.UnpicklingError,
    zipfile.BadZipFile,
  ) as error:
    raise UsageError(f'{path} is not a file of named tensors written by torch.save ({error}).') from None


def _archive(data: bytes):
  with zipfile.ZipFile(io.BytesIO(data)) as archive:
    (root,) = [name.removesuffix('data.pkl') for name in archive.namelist() if name.endswith('/data.pkl')]
    tensors = Unpickler(io.BytesIO(archive.read(root + 'data.pkl'))).load()
    keys = {tensor.key for tensor in tensors.values() if isinstance(tensor, Tensor)}
    return tensors, {key: archive.read(f'{root}data/{key}') for key in keys}


def _stream(data: bytes):
  file = io.BytesIO(data)
  if Unpickler(file).load() != LEGACY_MAGIC:
    raise ValueError('it does not begin like one')
  Unpickler(file).load()  # version of the protocol
  Unpickler(file).load()  # sizes of integers where it was written
  tensors = Unpickler(file).load()
  kinds = {tensor.key: np.dtype(tensor.dtype) for tensor in tensors.values() if isinstance(tensor, Tensor)}
  storages = {}
  for key in Unpickler(file).load():
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
