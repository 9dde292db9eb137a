"""One file per objective: its loss as the paper writes it, and its way to sample."""
