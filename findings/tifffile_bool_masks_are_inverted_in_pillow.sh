#!/usr/bin/env bash
# tifffile 2026.3.3, Pillow 13.0.0: a mask of bools has two polarities.
#
# One expects the array that was written from any reader. But tifffile's imwrite stores a
# bool array with one bit a pixel and PhotometricInterpretation 0 (zero is white), and its
# own imread gives back the bits without looking at that tag. Pillow follows the tag. So a
# segmentation mask that was saved by imwrite(mask) and opened with Image.open is True
# where it was False, at every pixel, without a warning. The other way round is fine:
# Pillow writes 1 (zero is black). The same mask as 0 and 255 in uint8 is read alike.
#
# Seen: tifffile gives 100 % of the pixels back, Pillow none. The script fails if that
# changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install -qq --disable-pip-version-check \
  tifffile==2026.3.3 pillow==13.0.0 numpy==2.4.6
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import numpy as np
import tifffile
from PIL import Image

mask = np.zeros((4, 6), bool)
mask[1:3, 2:5] = True

tifffile.imwrite("bits.tif", mask)
tifffile.imwrite("bytes.tif", mask.astype(np.uint8) * 255)
Image.fromarray(mask).save("pillow.tif")

kept = {
    name: [
        float((tifffile.imread(name).astype(bool) == mask).mean()),
        float((np.asarray(Image.open(name)).astype(bool) == mask).mean()),
    ]
    for name in ("bits.tif", "bytes.tif", "pillow.tif")
}
print("pixels that are as written, by tifffile and by Pillow:", kept)
assert kept["bytes.tif"] == kept["pillow.tif"] == [1.0, 1.0]
assert kept["bits.tif"] == [1.0, 0.0], "both readers agree now"
PYTHON
