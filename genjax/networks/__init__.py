"""One file per network. A network knows no loss and no noise schedule; labels come as one-hot rows [B, K] or None."""
