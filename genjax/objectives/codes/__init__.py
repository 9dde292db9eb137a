"""Models with discrete codes: VQ-VAE, FSQ and VQGAN."""
