"""The published constants of the five severities, for large and for small images.

They are facts read from github.com/hendrycks/robustness, ImageNet-C/create_c:
make_imagenet_c.py (images of 224 x 224) and make_cifar_c.py (32 x 32). Lengths are in
pixels of those sizes and are not rescaled; amplitudes are shares of white.
"""

# the constants of severity 1, 2, 3, 4 and 5
Levels = tuple[tuple[float, ...], ...]

# images whose shorter side has so many pixels get ImageNet-C's constants, smaller ones
# get CIFAR-10-C's
LARGE_SIDE = 128
# the side that elastic_transform was written for: a slip of 224 that the published
# images carry
ELASTIC = 244

# the meaning of each number in a row
CONSTANT_MEANINGS = {
    "gaussian_noise": "standard deviation",
    "shot_noise": "photons of a white pixel",
    "impulse_noise": "share of pixels hit",
    "defocus_blur": "radius of the disk, sigma of its soft edge",
    "glass_blur": "sigma, reach of a copy, passes",
    "motion_blur": "radius, sigma",
    "zoom_blur": "end and step of the zoom factors from 1",
    "snow": (
        "mean, sigma, zoom, threshold, radius, sigma of the fall, weight of the image"
    ),
    "frost": "weight of the image, weight of the ice",
    "fog": "thickness, decay of the fractal",
    "brightness": "added to the value",
    "contrast": "factor of the deviations",
    "elastic_transform": "amplitude, sigma of the waves, reach of the affine part",
    "pixelate": "factor of the side",
    "jpeg_compression": "quality",
}

IMAGENET: dict[str, Levels] = {
    "gaussian_noise": ((0.08,), (0.12,), (0.18,), (0.26,), (0.38,)),
    "shot_noise": ((60,), (25,), (12,), (5,), (3,)),
    "impulse_noise": ((0.03,), (0.06,), (0.09,), (0.17,), (0.27,)),
    "defocus_blur": ((3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5)),
    "glass_blur": ((0.7, 1, 2), (0.9, 2, 1), (1, 2, 3), (1.1, 3, 2), (1.5, 4, 2)),
    "motion_blur": ((10, 3), (15, 5), (15, 8), (15, 12), (20, 15)),
    "zoom_blur": ((1.11, 0.01), (1.16, 0.01), (1.21, 0.02), (1.26, 0.02), (1.31, 0.03)),
    "snow": (
        (0.1, 0.3, 3, 0.5, 10, 4, 0.8),
        (0.2, 0.3, 2, 0.5, 12, 4, 0.7),
        (0.55, 0.3, 4, 0.9, 12, 8, 0.7),
        (0.55, 0.3, 4.5, 0.85, 12, 8, 0.65),
        (0.55, 0.3, 2.5, 0.85, 12, 12, 0.55),
    ),
    "frost": ((1, 0.4), (0.8, 0.6), (0.7, 0.7), (0.65, 0.7), (0.6, 0.75)),
    "fog": ((1.5, 2), (2, 2), (2.5, 1.7), (2.5, 1.5), (3, 1.4)),
    "brightness": ((0.1,), (0.2,), (0.3,), (0.4,), (0.5,)),
    "contrast": ((0.4,), (0.3,), (0.2,), (0.1,), (0.05,)),
    "elastic_transform": (
        (ELASTIC * 2, ELASTIC * 0.7, ELASTIC * 0.1),
        (ELASTIC * 2, ELASTIC * 0.08, ELASTIC * 0.2),
        (ELASTIC * 0.05, ELASTIC * 0.01, ELASTIC * 0.02),
        (ELASTIC * 0.07, ELASTIC * 0.01, ELASTIC * 0.02),
        (ELASTIC * 0.12, ELASTIC * 0.01, ELASTIC * 0.02),
    ),
    "pixelate": ((0.6,), (0.5,), (0.4,), (0.3,), (0.25,)),
    "jpeg_compression": ((25,), (18,), (15,), (10,), (7,)),
}

CIFAR: dict[str, Levels] = {
    "gaussian_noise": ((0.04,), (0.06,), (0.08,), (0.09,), (0.10,)),
    "shot_noise": ((500,), (250,), (100,), (75,), (50,)),
    "impulse_noise": ((0.01,), (0.02,), (0.03,), (0.05,), (0.07,)),
    "defocus_blur": ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1)),
    "glass_blur": ((0.05, 1, 1), (0.25, 1, 1), (0.4, 1, 1), (0.25, 1, 2), (0.4, 1, 2)),
    "motion_blur": ((6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5)),
    "zoom_blur": ((1.06, 0.01), (1.11, 0.01), (1.16, 0.01), (1.21, 0.01), (1.26, 0.01)),
    "snow": (
        (0.1, 0.2, 1, 0.6, 8, 3, 0.95),
        (0.1, 0.2, 1, 0.5, 10, 4, 0.9),
        (0.15, 0.3, 1.75, 0.55, 10, 4, 0.9),
        (0.25, 0.3, 2.25, 0.6, 12, 6, 0.85),
        (0.3, 0.3, 1.25, 0.65, 14, 12, 0.8),
    ),
    "frost": ((1, 0.2), (1, 0.3), (0.9, 0.4), (0.85, 0.4), (0.75, 0.45)),
    "fog": ((0.2, 3), (0.5, 3), (0.75, 2.5), (1, 2), (1.5, 1.75)),
    "brightness": ((0.05,), (0.1,), (0.15,), (0.2,), (0.3,)),
    "contrast": ((0.75,), (0.5,), (0.4,), (0.3,), (0.15,)),
    "elastic_transform": (
        (0, 0, 32 * 0.08),
        (32 * 0.05, 32 * 0.2, 32 * 0.07),
        (32 * 0.08, 32 * 0.06, 32 * 0.06),
        (32 * 0.1, 32 * 0.04, 32 * 0.05),
        (32 * 0.1, 32 * 0.03, 32 * 0.03),
    ),
    "pixelate": ((0.95,), (0.9,), (0.85,), (0.75,), (0.65,)),
    "jpeg_compression": ((80,), (65,), (58,), (50,), (40,)),
}


def severity_constants(
    name: str, severity: int, height: int, width: int
) -> tuple[float, ...]:
    """Return the constants of a corruption at severity 1 to 5 for this image size."""
    table = IMAGENET if min(height, width) >= LARGE_SIDE else CIFAR
    return table[name][severity - 1]
