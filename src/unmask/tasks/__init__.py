"""LightningModules: pretraining, classification on features or fine-tuned encoders, features for kNN."""
