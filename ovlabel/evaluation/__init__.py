"""Labels against ground truth: reading masks, counting pixels, scores, figures, ablation. See README.md."""
