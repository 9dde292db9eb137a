"""configs/digits_aae.py that is shown the labels of a tenth of the digits (1511.05644, section 5).

python train.py --config configs/digits_semi_aae.py

Not yet reproduced.
"""

from configs import digits_aae
from genjax.build import spec


def get_config():
  config = digits_aae.get_config()
  parts = {key: config.objective[key] for key in ('num_classes', 'decoder', 'discriminator', 'likelihood')}
  encoder = spec('networks.mlp.MLPEncoder', z_dim=18)  # eight numbers of style, ten classes
  config.objective = spec('objectives.aae.SemiSupervisedAAE', labelled=0.1, encoder=encoder, **parts)
  rate = spec('optim.cosine', peak=3e-4, steps=config.train.get_ref('steps'), warmup=100)
  config.optim['class_discriminator'] = spec('optim.adam', learning_rate=rate, b1=0.5)
  return config
