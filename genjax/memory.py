"""Checks that images and states fit in memory, before they are computed."""

import math
import os
from collections.abc import Sequence

import jax

from genjax.errors import UsageError


def machine_memory() -> int:
  """Bytes of this machine."""
  return os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE')


def device_memory() -> float:
  """Bytes of a device; infinite if it does not report them, as CPUs do."""
  return (jax.local_devices()[0].memory_stats() or {}).get('bytes_limit', math.inf)


def check_images(n: int, image_shape: Sequence[int], name: str, devices: int = 1) -> None:
  """Raises UsageError if float32 images and a copy of them exceed the memory of the devices or the machine.

  Args:
    n: number of images, distributed over the devices.
    image_shape: their shape.
    name: the option or argument with that number, for the message.
    devices: number of devices of all hosts.
  """
  needed = 2 * 4 * n * math.prod(image_shape) // devices  # for each device
  available = min(device_memory(), machine_memory() / min(devices, jax.local_device_count()))
  if needed > available or n >= 2**31:  # indices of images have 32 bits
    raise UsageError(
      f'{name}={n}: the images take {needed * devices // 10**9:,} GB of {int(available * devices) // 10**9:,} GB available. '
      'Request fewer at a time.'
    )


def check_state(size: int, devices: int = 1) -> None:
  """Raises UsageError if a training state of `size` bytes, split over the devices of all hosts, exceeds their memory."""
  available = devices * min(device_memory(), machine_memory() / min(devices, jax.local_device_count()))
  if size > available:
    raise UsageError(
      f'the parameters, their averages and the optimizer state take {size // 10**9:,} GB of {int(available) // 10**9:,} GB '
      'available: choose smaller networks or a lower data.resolution.'
    )
