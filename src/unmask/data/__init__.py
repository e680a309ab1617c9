"""Sources of images, keyed crops, the sampler, and the DataModule that joins them."""
