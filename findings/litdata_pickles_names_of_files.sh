#!/usr/bin/env bash
# litdata 0.2.76: a string that happens to be the path of a file is pickled.
#
# One expects a sample of (image, name, label) to be stored in one format. But LitData's
# serializer of strings leaves out those that os.path.isfile finds in the working
# directory, and the last serializer pickles them. So the same script writes UTF-8 from
# one folder and pickles from another, and a reader that opens no pickles has no names.
#
# Seen, with the name a.txt: formats bytes, str, int where no such file is, and bytes,
# pickle, int where one is. With serializers={...} of one's own names stay strings.
# The script fails if that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install -qq --disable-pip-version-check litdata==0.2.76
cd "$folder"
LITDATA_DISABLE_VERSION_CHECK=1 "$folder/venv/bin/python" - <<'PYTHON'
import json
from pathlib import Path

from litdata.streaming.writer import BinaryWriter


def stored(folder: str) -> list[str]:
    Path(folder).mkdir()
    writer = BinaryWriter(folder, chunk_bytes=1000)
    writer[0] = (b"image", "a.txt", 3)
    writer.done()
    writer.merge()
    return json.loads(Path(folder, "index.json").read_text())["config"]["data_format"]


before = stored("without")
Path("a.txt").write_text("a file")
after = stored("with")
print(before, after)
assert before == ["bytes", "str", "int"]
assert after == ["bytes", "pickle", "int"], "the name is stored as a string now"
PYTHON
