"""Batches: images of a split, the sampler, loader workers, the DataModules."""
