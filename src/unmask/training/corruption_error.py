"""The mean corruption error of ImageNet-C (Hendrycks & Dietterich 2019, Sec. 4.2)."""

# AlexNet's top-1 error on ImageNet-C, the mean of the five severities: the table of
# github.com/hendrycks/robustness (its mCE spreadsheet, repeated in
# github.com/google-research/augmix, imagenet.py); checked against the means of the
# errors at each severity that timm lists.
ALEXNET_ERRORS = {
    "gaussian_noise": 0.886428,
    "shot_noise": 0.894468,
    "impulse_noise": 0.922640,
    "defocus_blur": 0.819880,
    "glass_blur": 0.826268,
    "motion_blur": 0.785948,
    "zoom_blur": 0.798360,
    "snow": 0.866816,
    "frost": 0.826572,
    "fog": 0.819324,
    "brightness": 0.564592,
    "contrast": 0.853204,
    "elastic_transform": 0.646056,
    "pixelate": 0.717840,
    "jpeg_compression": 0.606500,
}


def mean_corruption_error(errors: dict[str, float]) -> float:
    """Return the mCE as a share, where AlexNet's is 1.

    errors: for each of the 15 corruptions the error (0 to 1), averaged over severities.
    Raises ValueError where one is missing, unknown or no share.
    """
    if errors.keys() != ALEXNET_ERRORS.keys():
        missing = ", ".join(sorted(ALEXNET_ERRORS.keys() - errors.keys())) or "nothing"
        unknown = ", ".join(sorted(errors.keys() - ALEXNET_ERRORS.keys())) or "nothing"
        raise ValueError(
            f"mCE is over the 15 corruptions of ImageNet-C; missing: {missing};"
            f" unknown: {unknown}"
        )
    for name, error in errors.items():
        if not 0 <= error <= 1:
            raise ValueError(
                f"the error on {name} is {error}; give shares from 0 to 1, not percent"
            )
    # the paper divides sums over the five severities; the ratio of means is the same
    ratios = [error / ALEXNET_ERRORS[name] for name, error in errors.items()]
    return sum(ratios) / len(ratios)
