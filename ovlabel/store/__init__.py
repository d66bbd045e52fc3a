"""The Zarr store: its layout, its records, who may write to it, and whether it is what it says."""
