"""Listings of images, containers that store them, decoding, augmentation, loading."""
