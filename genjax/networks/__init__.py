"""One file per network. Networks are independent of losses and noise schedules; labels are one-hot vectors [B, K] or None."""
