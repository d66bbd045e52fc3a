"""The demonstration: drawn scenes with exact ground truth, and the training of a small CLIP on such drawings."""
