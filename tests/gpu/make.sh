#!/usr/bin/env bash
# The runs in this folder, as an H100 wrote them (2026-11-27, commit 9107b30, Python 3.12, jax 0.11.2): bash tests/gpu/make.sh OUT
# In full float32, which is not the default of NVIDIA's matrix units. Then the two were trained side by side, and their folders
# renamed from vae and gan.
set -euo pipefail
export JAX_DEFAULT_MATMUL_PRECISION=highest
out=$1
all=(--config.train.steps=20 --config.train.batch_size=8 --config.train.checkpoint_every=10 --config.train.sample_every=20
  --config.train.log_every=10)
python train.py --config configs/digits_vae.py --workdir "$out/digits_vae" "${all[@]}" \
  --config.objective.encoder.width=4 --config.objective.decoder.width=4
python train.py --config configs/digits_gan.py --workdir "$out/digits_gan" "${all[@]}" \
  --config.objective.generator.width=4 --config.objective.discriminator.width=4
for name in digits_vae digits_gan; do
  python sample.py --run "$out/$name" --n 8 --out "$out/$name.png" --npz "$out/$name.npz"
  tar czf "tests/gpu/$name.tgz" -C "$out" --exclude=tensorboard --exclude=lock "$name" "$name.npz"
done
