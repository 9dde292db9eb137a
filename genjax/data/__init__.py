"""Images from anywhere (sources), and batches that are a function of (seed, step) (pipeline)."""
