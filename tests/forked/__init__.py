"""What a user adds to genjax in a package of their own: each part is one file here and one config in `configs`."""
