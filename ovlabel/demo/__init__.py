"""The demonstration: drawn scenes with exact ground truth, and a small CLIP trained on such drawings."""
