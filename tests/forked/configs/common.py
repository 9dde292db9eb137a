"""Narrow networks, three steps."""

from configs import digits_flow, digits_gan


def flow():
  config = digits_flow.get_config()
  network = config.objective.network
  network.width, network.multipliers, network.attention, network.head_features, network.blocks = 8, (1,), (8,), 8, 1
  config.objective.sampler.steps = 4
  return short(config)


def gan():
  config = digits_gan.get_config()
  config.objective.generator.width = config.objective.discriminator.width = 8
  return short(config)


def short(config):
  config.train.steps, config.train.batch_size = 3, 8
  return config
