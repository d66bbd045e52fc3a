"""The frozen CLIP: finding, reading and loading its weights; a forward pass whose last attention can be replaced."""
