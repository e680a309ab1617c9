#!/usr/bin/env bash
# pyarrow 26.0.1: a pickled slice of a LargeBinaryArray is as long as the whole array.
#
# A slice of Arrow's arrays shares the buffers of what it was cut from. One expects that
# to end where the slice leaves the process: a DataLoader worker that is spawned, or a
# rank that is sent its share of a list of file names, gets the slice by pickle. But
# pickle writes the whole buffers, with offset and length beside them, while Arrow's own
# stream format cuts them.
#
# Seen, with 100,000 names of 20 bytes and a slice of 10:
#   whole 2.8 MB; slice 2.8 MB by pickle, under 2 kB as an IPC stream, and under 2 kB by
#   pickle once take() has copied it.
# The script fails if that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install -qq --disable-pip-version-check pyarrow==26.0.1
"$folder/venv/bin/python" - <<'PYTHON'
import pickle

import pyarrow as pa

names = pa.array([b"class/%014d" % i for i in range(100_000)], pa.large_binary())
part = names[:10]
whole = len(pickle.dumps(names))
by_pickle = len(pickle.dumps(part))
sink = pa.BufferOutputStream()
batch = pa.record_batch([part], names=["name"])
with pa.ipc.new_stream(sink, batch.schema) as stream:
    stream.write_batch(batch)
by_stream = sink.getvalue().size
copied = len(pickle.dumps(part.take(pa.array(range(10)))))
print(f"whole {whole}, slice {by_pickle}, as a stream {by_stream}, copied {copied}")
assert by_pickle > 0.9 * whole, "a pickled slice is cut now"
assert by_stream < 2_000, "a stream of a slice is not cut any more"
assert copied < 2_000
assert pickle.loads(pickle.dumps(part)) == part
PYTHON
