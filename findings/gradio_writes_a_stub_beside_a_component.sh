#!/usr/bin/env bash
# gradio 6.31.0: to subclass a component writes a .pyi file beside your module.
#
# A studio that wants one more event or another default subclasses a component, as
# gradio's guide to custom components does. One expects the import of a module to leave
# its folder as it was. But the metaclass of components writes a stub, `MODULE.pyi`, next
# to the source: a copy of the whole module with the events' methods added. From then on
# type checkers read the copy in place of the module, so that a fault which is mended in
# the source is reported still, in a file that nobody has written, until the program has
# run once more; in a checkout the copy looks like one's own work.
#
# Seen: mypy 1.18.2 finds a wrong return value in page.py; after `import page` there is a
# page.pyi; with the fault mended in page.py mypy finds it in page.pyi. The script fails
# if that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install -q --disable-pip-version-check gradio==6.31.0 mypy==1.18.2
cat > page.py <<'PYTHON'
import gradio as gr


class Picture(gr.Image):
    """An image of our own."""


def count() -> int:
    return "three"
PYTHON
check() { venv/bin/mypy --ignore-missing-imports --follow-imports=skip --no-incremental -m page || true; }
before=$(check)
GRADIO_ANALYTICS_ENABLED=False venv/bin/python -c 'import page'
sed -i 's/return "three"/return 3/' page.py
after=$(check)
echo "before: $before"
echo "mended: $after"
ls
test -f page.pyi
grep -q '^page.py:.*got "str", expected "int"' <<< "$before"
if ! grep -q '^page.pyi:.*got "str", expected "int"' <<< "$after"; then
  echo "the copy is not read any more: this finding is over"
  exit 1
fi
