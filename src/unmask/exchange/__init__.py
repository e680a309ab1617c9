"""Weights of other projects, read and written exactly: MAE, Hugging Face, timm."""
