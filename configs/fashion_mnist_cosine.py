"""v-prediction on the cosine path with sigmoid weights (2202.00512; 2410.19324) on Fashion-MNIST: as fashion_mnist_flow.py.

Not yet reproduced.

python train.py --config configs/fashion_mnist_cosine.py
"""

from configs import fashion_mnist_flow
from genjax.build import spec


def get_config():
  config = fashion_mnist_flow.get_config()
  config.objective.path = spec('samplers.paths.VPCosine')
  config.objective.prediction = spec('objectives.predictions.V')
  config.objective.times = spec('objectives.times.Uniform')
  config.objective.weighting = spec('objectives.weightings.Sigmoid')
  return config
