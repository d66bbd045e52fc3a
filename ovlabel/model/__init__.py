"""The frozen encoder: finding, reading and loading weights, and open_clip's ViT opened before its last attention."""
