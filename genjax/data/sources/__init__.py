"""Data sources, one file each. `open.open_data` opens one by name."""
