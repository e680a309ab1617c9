#!/usr/bin/env bash
# datasets 5.2.0: to_parquet of an image folder writes paths on this machine, no images.
#
# One expects a Parquet file to hold its images, as those that push_to_hub makes do. But
# load_dataset("imagefolder") keeps absolute paths, and to_parquet writes them as they
# are, with null in place of the bytes. The file opens without a complaint where the
# folder lies, and is of no use on any other machine, or once the folder has moved.
#
# Seen, with two images: bytes null in both rows, path absolute; once
# datasets.table.embed_table_storage was mapped over the rows, bytes are there and path is
# the base name, so that 0.png of two classes are two rows of one name.
# The script fails if that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install -qq --disable-pip-version-check \
    datasets==5.2.0 pillow==12.3.0
cd "$folder"
HF_HUB_OFFLINE=1 HF_HOME="$folder/cache" "$folder/venv/bin/python" - <<'PYTHON'
from pathlib import Path

import datasets
import pyarrow.parquet as pq
from datasets.table import embed_table_storage
from PIL import Image

datasets.disable_progress_bars()
for name in ("cat", "dog"):
    Path("images", name).mkdir(parents=True)
    Image.new("RGB", (4, 4)).save(f"images/{name}/0.png")
data = datasets.load_dataset("imagefolder", data_dir="images", split="train")
data.to_parquet("plain.parquet")
rows = pq.read_table("plain.parquet")["image"].to_pylist()
print("plain:", [(row["bytes"] is None, row["path"]) for row in rows])
assert all(row["bytes"] is None for row in rows), "images are written now"
assert all(Path(row["path"]).is_absolute() for row in rows)

arrow = data.with_format("arrow")
arrow.map(embed_table_storage, batched=True).with_format(None).to_parquet("embedded.parquet")
rows = pq.read_table("embedded.parquet")["image"].to_pylist()
print("embedded:", [(len(row["bytes"]), row["path"]) for row in rows])
assert [row["path"] for row in rows] == ["0.png", "0.png"], "paths are told apart now"
PYTHON
