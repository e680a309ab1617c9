"""LightningModules that are trained, and frozen features for kNN and robustness."""
