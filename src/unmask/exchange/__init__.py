"""Weights of others, in both directions, exactly: the official port, Hugging Face, timm, safetensors."""
