"""The site of the documentation: its pages, their links, and what it is built with."""

import re
import sys
import tomllib
from pathlib import Path
from types import ModuleType

import pytest

from small_runs import ROOT

HERE = ROOT / "docs" / "site"


@pytest.fixture(scope="module")
def assembled(tmp_path_factory: pytest.TempPathFactory) -> tuple[ModuleType, Path]:
    """Return docs/site/assemble.py and the folder of what it has put together."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(HERE)
        import assemble
    sys.modules.pop("assemble")
    assemble.BUILD = tmp_path_factory.mktemp("site") / "docs"
    assemble.assemble()
    return assemble, assemble.BUILD


def settings() -> dict:
    return tomllib.loads((HERE / "zensical.toml").read_text())["project"]


def nav_pages() -> list[str]:
    (home, *sections) = [
        value for entry in settings()["nav"] for value in entry.values()
    ]
    return [home, *(page for section in sections for page in section)]


def test_every_page_is_in_the_navigation_once_or_linked(
    assembled: tuple[ModuleType, Path],
) -> None:
    pages = {path.name for path in (assembled[1] / "pages").glob("*.md")}
    named = nav_pages()
    assert len(set(named)) == len(named)
    assert set(named) <= pages
    # the paper's tables are read from the page of experiments; the GPU's is made by make
    others = {page for page in pages - set(named) if not page.startswith("experiment-")}
    assert others <= {"speed-gpu.md"}


def test_links_of_the_site_stay_in_it(assembled: tuple[ModuleType, Path]) -> None:
    """Links to code lose their target; the built pages are checked by `make docs`."""
    folder = assembled[1] / "pages"
    for page in folder.glob("*.md"):
        text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
        for target in re.findall(r"\]\(([^)\s]+)\)", text):
            name = target.partition("#")[0]
            if "://" not in target and name:
                assert (folder / name).exists(), f"{page.name}: {target}"


def test_the_reference_names_what_the_library_offers(
    assembled: tuple[ModuleType, Path],
) -> None:
    import unmask

    text = (assembled[1] / "pages" / "api.md").read_text()
    for name in unmask.__all__:
        assert re.search(rf"^::: unmask\.library\.\w+\.{name}$", text, re.MULTILINE), (
            name
        )
    for line in (assembled[1] / "pages" / "api-model.md").read_text().splitlines():
        if line.startswith("::: "):
            path = ROOT / "src" / line.removeprefix("::: ").replace(".", "/")
            assert path.with_suffix(".py").exists(), line


def test_recipes_name_every_choice(assembled: tuple[ModuleType, Path]) -> None:
    module, folder = assembled
    text = (folder / "pages" / "recipes.md").read_text()
    for group in module.RECIPES:
        for path in (ROOT / "conf" / group).glob("*.yaml"):
            assert f"`{group}={path.stem}`" in text


def test_dead_links_and_other_hosts_are_found(
    assembled: tuple[ModuleType, Path], tmp_path: Path
) -> None:
    (tmp_path / "a.html").write_text(
        '<h1 id="top">A</h1><a href="b.html#there">b</a><a href="#top">up</a>'
        '<a href="https://example.org">elsewhere</a>'
    )
    (tmp_path / "b.html").write_text(
        '<p id="there">B</p><img src="data:image/png;base64,">'
    )
    assert assembled[0].faults(tmp_path) == []
    (tmp_path / "b.html").write_text(
        '<a href="c.html">c</a><script src="https://cdn.example.org/x.js"></script>'
    )
    (tmp_path / "x.css").write_text(
        "@font-face { src: url(//fonts.example.org/f.woff2) }"
    )
    assert assembled[0].faults(tmp_path) == [
        "a.html: no heading b.html#there",
        "b.html loads https://cdn.example.org/x.js",
        "b.html: no page c.html",
        "x.css loads //fonts.example.org/f.woff2",
    ]


def test_the_site_asks_no_other_host_and_its_generator_is_pinned() -> None:
    assert settings()["theme"]["font"] is False
    lock = (ROOT / "requirements-docs.lock").read_text()
    assert "://" not in lock
    extra = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for requirement in extra["optional-dependencies"]["docs"]:
        name, _, least = requirement.partition(">=")
        (pinned,) = re.findall(rf"^{name}==([\d.]+) ", lock, re.MULTILINE)
        assert [*map(int, pinned.split("."))] >= [*map(int, least.split("."))]
    entries = re.split(
        r"^(?=\S)",
        re.sub(r"^\s*#.*\n", "", lock, flags=re.MULTILINE),
        flags=re.MULTILINE,
    )[1:]
    assert all("--hash=sha256:" in entry for entry in entries)
