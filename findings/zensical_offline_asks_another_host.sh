#!/usr/bin/env bash
# zensical 0.0.73 (MIT; the documentation's generator): its `offline` plugin is there for sites that are
# read from the disk. With it the search index becomes a script, which pages from the disk may load; but
# every page then also loads a script from unpkg.com, without which browsers start no search in such
# pages. So the site that is meant to be read without a network asks another host on each page, and
# without the plugin it asks none. Nothing warns of it, not even `--strict`.
#
# Seen (zensical 0.0.73, Python 3.11), for one page:
#   without the plugin: 0 scripts of other hosts, no search.js
#   with it: 1 script of another host (unpkg.com), and search.js
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -qq --disable-pip-version-check zensical==0.0.73
for plugin in without with; do
  mkdir -p "$folder/$plugin/docs"
  echo "# A page" > "$folder/$plugin/docs/index.md"
  printf '[project]\nsite_name = "a"\nuse_directory_urls = false\n' > "$folder/$plugin/zensical.toml"
  printf '[project.theme]\nfont = false\n' >> "$folder/$plugin/zensical.toml"
done
printf '[project.plugins.offline]\nenabled = true\n' >> "$folder/with/zensical.toml"
for plugin in without with; do
  (cd "$folder/$plugin" && "$folder/venv/bin/zensical" build --strict > /dev/null)
  scripts=$(grep -oE '<script[^>]+src="?https?://[^" >]+' "$folder/$plugin/site/index.html" | sed -E 's/.*src="?//' || true)
  index=no
  [ -e "$folder/$plugin/site/search.js" ] && index=yes
  echo "$plugin the plugin: scripts of other hosts: ${scripts:-none}; search.js: $index"
  echo "$scripts $index" > "$folder/$plugin.txt"
done
grep -qx ' no' "$folder/without.txt"
grep -q 'https://unpkg.com/.* yes' "$folder/with.txt"
