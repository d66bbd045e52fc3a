"""Labels against ground truth: reading masks, counting, scores, figures, ablation."""
