"""Changes of images: crops and flips, colours, RandAugment, corruptions."""
