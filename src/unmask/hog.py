def hog(images_BCHW, patch_size, bins):
    raise NotImplementedError


def hog_dim(patch_size, channels, bins):
    return 4 * bins * channels
