"""The Zarr store: its layout, commit records and lock; reading, writing and verifying it. README.md is its manual."""
