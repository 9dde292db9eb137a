"""Values of huggingface/diffusers' schedulers for one and many steps of a known network: writes solvers.npz.

Python 3.11, in an environment of its own: pip install torch==2.13.0 diffusers==0.42.1 numpy scipy; python make_solvers.py
"""

from pathlib import Path
from unittest import mock

import numpy as np
import torch
from diffusers import (
  DDIMScheduler,
  DDPMScheduler,
  DPMSolverMultistepScheduler,
  EDMEulerScheduler,
  EulerDiscreteScheduler,
  HeunDiscreteScheduler,
  UniPCMultistepScheduler,
)

VP = {'num_train_timesteps': 1000, 'beta_schedule': 'linear', 'beta_start': 1e-4, 'beta_end': 0.02}
DPM = {'final_sigmas_type': 'zero', 'solver_order': 2, 'timestep_spacing': 'trailing', **VP}
SCHEDULERS = {
  'ddpm': DDPMScheduler(**VP, clip_sample=False, timestep_spacing='trailing'),
  'ddim': DDIMScheduler(**VP, clip_sample=False, timestep_spacing='trailing', set_alpha_to_one=True),
  'ddim_eta': DDIMScheduler(**VP, clip_sample=False, timestep_spacing='trailing', set_alpha_to_one=True),
  'euler': EulerDiscreteScheduler(**VP, timestep_spacing='trailing', final_sigmas_type='zero'),
  'heun': HeunDiscreteScheduler(**VP, timestep_spacing='trailing'),
  'dpmpp_2m': DPMSolverMultistepScheduler(**DPM, algorithm_type='dpmsolver++', solver_type='midpoint'),
  'dpmpp_2m_sde': DPMSolverMultistepScheduler(**DPM, algorithm_type='sde-dpmsolver++', solver_type='midpoint'),
  'unipc': UniPCMultistepScheduler(**DPM, solver_type='bh2', predict_x0=True),
}


def eps(x: torch.Tensor, t: float) -> torch.Tensor:
  """A network of x_t and t in (0, 1]."""
  return 0.9 * torch.tanh(x) + 0.2 * torch.cos(3 * x + 2 * t)


def main() -> None:
  random = np.random.default_rng(0)
  x = random.normal(size=(2, 4, 4, 1))
  noise = random.normal(size=(12, *x.shape))  # of each step
  values = {'x': x, 'noise': noise}
  for name, scheduler in SCHEDULERS.items():
    for steps in (1, 2, 10):
      if name == 'heun' and steps == 1:
        continue  # its list of time steps is then empty
      scheduler.set_timesteps(steps)
      # Euler and Heun hold y = x / alpha, at y's deviation.
      sample = torch.tensor(x) * (scheduler.init_noise_sigma if name in ('euler', 'heun') else 1)
      samples = iter(noise)
      draw = lambda *_, **__: torch.tensor(next(samples))  # noqa: E731
      with mock.patch(f'{type(scheduler).__module__}.randn_tensor', draw, create=True):
        for t in scheduler.timesteps:
          scaled = scheduler.scale_model_input(sample, t)
          more = {'eta': 0.7} if name == 'ddim_eta' else {}
          sample = scheduler.step(eps(scaled, (float(t) + 1) / 1000), t, sample, **more).prev_sample
      values[f'{name}_{steps}'] = sample.numpy()
      if name in ('euler', 'heun'):
        values[f'{name}_{steps}_sigmas'] = scheduler.sigmas.numpy()
  learned = DDPMScheduler(**VP, clip_sample=False, timestep_spacing='trailing', variance_type='learned_range')
  for steps in (4, 10):  # but for the last step, to which it adds noise
    learned.set_timesteps(steps)
    sample, samples = torch.tensor(x), iter(noise)
    draw = lambda *_, **__: torch.tensor(next(samples))  # noqa: E731
    with mock.patch(f'{DDPMScheduler.__module__}.randn_tensor', draw):
      for t in learned.timesteps[:-1]:
        answer = torch.cat([eps(sample, (float(t) + 1) / 1000), torch.sin(5 * sample)], dim=1)
        sample = learned.step(answer, t, sample).prev_sample
    values[f'ddpm_learned_{steps}'] = sample.numpy()
  edm = EDMEulerScheduler(sigma_min=0.002, sigma_max=80.0, sigma_data=0.5)
  edm.set_timesteps(18)
  sample = torch.tensor(x) * 80
  for t in edm.timesteps:
    scaled = edm.scale_model_input(sample, t)
    sample = edm.step(eps(scaled, float(t)), t, sample, pred_original_sample=None).prev_sample
  values['edm_18'], values['edm_18_sigmas'] = sample.numpy(), edm.sigmas.numpy()
  np.savez_compressed(Path(__file__).with_name('solvers.npz'), **values)


if __name__ == '__main__':
  main()
