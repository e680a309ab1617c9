"""Put the pages of the site together in build/docs, and look at what was built.

    python docs/site/assemble.py          # build/docs/pages, for zensical
    python docs/site/assemble.py check    # no dead link, and no request to another host

The pages are docs/*.md, the README as the first page, the paper's tables, and three
that are written from the code: recipes, and the reference of the library and of the
model. It needs nothing but Python.
"""

import ast
import os
import re
import shutil
import sys
from html.parser import HTMLParser
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BUILD = ROOT / "build" / "docs"
LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)\s]+)\)")
# groups of conf/ whose choices are recipes of the science
RECIPES = (
    *("pretrain", "linear_probe", "knn", "attentive_probe", "finetune"),
    *("scratch", "robustness", "augment", "masking", "target", "model", "scale"),
)
# what a plug-in is or gets, and what it may be built from
MODEL = (
    *("mae", "masking", "encoder", "decoder", "targets", "heads", "patches", "optim"),
    "config.datasets",
)


def site_pages() -> dict[Path, str]:
    """Return the name on the site of each file that becomes a page."""
    pages = {path: path.name for path in sorted((ROOT / "docs").glob("*.md"))}
    pages[ROOT / "README.md"] = "index.md"
    pages[ROOT / "CHANGELOG.md"] = "changelog.md"
    pages[ROOT / "experiments" / "README.md"] = "experiments.md"
    for path in sorted((ROOT / "experiments").glob("*/README.md")):
        pages[path] = f"experiment-{path.parent.name}.md"
    return pages


def with_site_links(text: str, source: Path, pages: dict[Path, str]) -> str:
    """Turn links to other pages into those of the site.

    Links to files of the code lose their target, which the site does not have.
    """

    def replaced(match: re.Match[str]) -> str:
        picture, words, target = match.groups()
        if "://" in target or target.startswith("#"):
            return match[0]
        name, _, anchor = target.partition("#")
        path = (source.parent / name).resolve()
        path = path / "README.md" if (path / "README.md") in pages else path
        if path in pages:
            return f"[{words}]({pages[path]}{'#' if anchor else ''}{anchor})"
        if picture:
            return f"![{words}]({picture_name(path)})"
        return words

    # code keeps its brackets
    parts = re.split(r"(```.*?```)", text, flags=re.DOTALL)
    return "".join(
        part if part.startswith("```") else LINK.sub(replaced, part) for part in parts
    )


def picture_name(path: Path) -> str:
    """Return the name on the site of a picture: tables call theirs alike."""
    return "-".join(path.relative_to(ROOT).parts[1:])


def recipes() -> str:
    """Write the choices of conf/ with what the first comment of each file says."""
    lines = [
        "# Recipes",
        "",
        "A choice is typed as `group=choice`; each of its values can be set beside it,"
        " as `pretrain=table8 pretrain.epochs=100`. `--cfg job` prints them all.",
    ]
    for group in RECIPES:
        lines += ["", f"## {group}", "", "| choice | what it is |", "|---|---|"]
        for path in sorted((ROOT / "conf" / group).glob("*.yaml")):
            said = []
            for line in path.read_text().splitlines():
                if line.startswith("# @package"):
                    continue
                if not line.startswith("#"):
                    break
                said.append(line.lstrip("# "))
            text = " ".join(said) or _values(path)
            lines.append(
                f"| `{group}={path.stem}` | {text.replace('|', chr(92) + '|')} |"
            )
    return "\n".join(lines) + "\n"


def _values(path: Path) -> str:
    """Return the first lines of a file without a comment."""
    lines = [line for line in path.read_text().splitlines() if line.strip()]
    return "`" + "; ".join(lines[:4]) + ("; ..." if lines[4:] else "") + "`"


def library() -> str:
    """Write the reference of what `import unmask` offers, by its own list."""
    tree = ast.parse((ROOT / "src" / "unmask" / "__init__.py").read_text())
    (offered,) = (
        ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign)
        and isinstance(node.targets[0], ast.Name)
        and node.targets[0].id == "_OFFERED"
    )
    head = "# The library\n\nWhat `import unmask` offers: [in Python](library.md).\n"
    return head + "".join(
        f"\n::: {module}.{name}\n" for name, module in offered.items()
    )


def model() -> str:
    """Write the reference of the model's parts, which plug-ins replace or use."""
    head = (
        "# The model's parts\n\nWhat a sampler, a target or a data set of your own gets"
        " and returns: [extending.md](extending.md). Axis letters are those of"
        " `unmask/__init__.py`.\n"
    )
    return head + "".join(f"\n::: unmask.{name}\n" for name in MODEL)


def assemble() -> None:
    """Write all pages and the settings below build/docs."""
    shutil.rmtree(BUILD, ignore_errors=True)
    pages = BUILD / "pages"
    pages.mkdir(parents=True)
    names = site_pages()
    for path, name in names.items():
        (pages / name).write_text(with_site_links(path.read_text(), path, names))
    for path in (*ROOT.glob("docs/*.png"), *ROOT.glob("experiments/*/results/*.svg")):
        shutil.copy(path, pages / picture_name(path))
    for name, text in (
        ("recipes", recipes()),
        ("api", library()),
        ("api-model", model()),
    ):
        (pages / f"{name}.md").write_text(text)
    here = Path(__file__).parent
    shutil.copy(here / "zensical.toml", BUILD)
    for name in ("extra.css", "extra.js"):
        shutil.copy(here / name, pages)


class Page(HTMLParser):
    """Collect a page's anchors, its links, and what it loads by itself."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.anchors: set[str] = set()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {key: value or "" for key, value in attrs}
        self.anchors.update(values[key] for key in ("id", "name") if values.get(key))
        if tag == "a" and "href" in values:
            self.links.append(values["href"])
        if tag == "link" and values.get("rel") not in ("canonical", "next", "prev"):
            self.loaded.append(values.get("href", ""))
        if tag in ("script", "img", "iframe", "source") and values.get("src"):
            self.loaded.append(values["src"])


def faults(html: Path) -> list[str]:
    """Return a line for each dead link, and for each file of another host."""
    # 404.html is for servers: its links begin with a slash
    files = sorted(set(html.rglob("*.html")) - {html / "404.html"})
    pages = {path: Page(path.read_text()) for path in files}
    found = []
    for path, page in pages.items():
        others = [url for url in page.loaded if re.match(r"(\w+:)?//", url)]
        found += [f"{path.name} loads {url}" for url in others]
        for link in (*page.links, *page.loaded):
            if re.match(r"\w+:|//", link):
                continue
            name, _, anchor = link.partition("#")
            target = Path(os.path.normpath(path.parent / name)) if name else path
            target = target / "index.html" if target.is_dir() else target
            if not target.exists():
                found.append(f"{path.name}: no page {link}")
            elif anchor and target in pages and anchor not in pages[target].anchors:
                found.append(f"{path.name}: no heading {link}")
    for path in (*html.rglob("*.css"), *html.rglob("*.js")):
        text = path.read_text(errors="replace")
        urls = re.findall(r"url\([\"']?((?:https?:)?//[^)\"']+)", text)
        found += [f"{path.name} loads {url}" for url in urls]
    return list(dict.fromkeys(found))


if __name__ == "__main__":
    if sys.argv[1:] == ["check"]:
        lines = faults(BUILD / "html")
        print("\n".join(lines) or f"{BUILD / 'html' / 'index.html'}")
        if not lines:
            print(f"with its search: python3 -m http.server -d {BUILD / 'html'}")
        sys.exit(bool(lines))
    assemble()
