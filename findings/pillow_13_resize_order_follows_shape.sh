#!/usr/bin/env bash
# Pillow 13.0.0: whether resize scales the width or the height first depends on shapes.
#
# One expects a separable filter to run in one fixed order, as in Pillow 12 (width first,
# always). Since 13 an image of 1000 x 300 pixels that becomes 256 x 128 is scaled in
# height first, and one of 300 x 1000 in width first. Both passes round to 8 bits, so the
# bytes differ, by up to 3 levels on noise. Two things follow: a pipeline that copies the
# old order (two one-axis calls, or kernels of one's own) no longer gives Pillow's bytes
# for tall images, and a crop-then-resize of a region may take another order than the
# whole image did.
#
# Seen, largest difference to two one-axis calls, width first and height first:
#   12.2.0: tall 0 and 3, wide 0 and 2;  13.0.0: tall 3 and 0, wide 0 and 2.
# The script fails if that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cat > "$folder/orders.py" <<'PYTHON'
import sys

import numpy as np
from PIL import Image, __version__


def distances(height: int, width: int, to_height: int, to_width: int) -> list[int]:
    """Return the largest difference to width first, and to height first."""
    pixels = np.random.default_rng(0).integers(0, 256, (height, width), dtype=np.uint8)
    image = Image.fromarray(pixels)
    whole = np.asarray(image.resize((to_width, to_height), Image.BICUBIC)).astype(int)
    steps = ((to_width, height), (width, to_height))
    orders = [
        image.resize(step, Image.BICUBIC).resize((to_width, to_height), Image.BICUBIC)
        for step in steps
    ]
    return [int(np.abs(whole - np.asarray(order)).max()) for order in orders]


tall, wide = distances(1000, 300, 256, 128), distances(300, 1000, 128, 256)
print(__version__, "tall", tall, "wide", wide)
first = 1 if __version__.startswith("13.") else 0
assert wide[0] == 0 < wide[1], "wide images are scaled in width first"
assert tall[first] == 0 < tall[1 - first], "the order is another one now"
PYTHON
for version in 12.2.0 13.0.0; do
  python3 -m venv "$folder/$version"
  "$folder/$version/bin/python" -m pip install -qq --disable-pip-version-check \
    "pillow==$version" numpy==2.4.6
  "$folder/$version/bin/python" "$folder/orders.py"
done
