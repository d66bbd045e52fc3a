"""The settings of a run: their keys, the presets, and how a `Config` is made of them."""
