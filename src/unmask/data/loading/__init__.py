"""Batches: the sampler, loader processes, the DataModule."""
