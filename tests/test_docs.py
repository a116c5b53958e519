"""The documentation: README, the pages, the site that is built from them, and what the code says of them."""

import ast
import re
import subprocess
import sys
from collections import Counter
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from urllib.parse import unquote

import pytest
import yaml
from documented import ROOT
from markdown_it import MarkdownIt
from markdown_it.token import Token
from pymdownx.slugs import slugify

import quee
from quee.settings.experiment import BLOCKS

DOCS = ROOT / "docs"
PAGES = sorted(DOCS.glob("**/*.md"))
FROM_CODE = {"api.md", "api-extending.md"}
"""Pages whose content the site takes from docstrings."""
MOST_LINES = 130
PARSER = MarkdownIt("commonmark", {"html": True}).enable("table")


class _Loader(yaml.SafeLoader):
    """Reads mkdocs.yml, whose tags name Python objects."""


_Loader.add_multi_constructor("tag:yaml.org,2002:python/", lambda loader, tag, node: tag)


def navigation() -> list[str]:
    """The pages of mkdocs.yml in their order."""
    found: list[str] = []

    def walk(entry: object) -> None:
        if isinstance(entry, str):
            found.append(entry)
        else:
            for child in entry.values() if isinstance(entry, dict) else entry:  # type: ignore[attr-defined]
                walk(child)

    walk(yaml.load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"), _Loader)["nav"])
    return found


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built strictly: a broken link or anchor, or a page outside of the navigation, fails."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


def built(site: Path, page: str) -> str:
    name = "index" if page == "README.md" else page.removesuffix(".md")
    return (site / f"{name}.html").read_text(encoding="utf-8")


def test_every_page_is_in_the_navigation_once() -> None:
    assert sorted(navigation()) == sorted(page.relative_to(DOCS).as_posix() for page in PAGES)


def test_the_contents_are_in_the_order_of_the_navigation() -> None:
    links = re.findall(r"\]\(([\w-]+\.md)\)", (DOCS / "README.md").read_text(encoding="utf-8"))
    assert ["README.md", *links] == navigation()


def test_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= MOST_LINES


class Fetched(HTMLParser):
    """Addresses that a page fetches while it is shown."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag == "link" and given.get("rel") not in ("stylesheet", "icon", "preconnect", "preload"):
            return
        if tag != "a":
            self.found += [value for name in ("src", "href") if (value := given.get(name))]


def test_the_site_fetches_nothing_from_elsewhere(site: Path) -> None:
    for page in site.glob("**/*.html"):
        seen = Fetched()
        seen.feed(page.read_text(encoding="utf-8"))
        assert [address for address in seen.found if re.match(r"(https?:)?//", address)] == [], page.name
    for style in site.glob("**/*.css"):
        assert not re.search(r"(url\(|@import)\W*(https?:)?//", style.read_text(encoding="utf-8")), style.name


BLOCK_TAGS = {"table", "tr", "ul", "ol", "li", "pre", "h1", "h2", "h3", "h4"}


class Blocks(HTMLParser):
    """Counts the lists, tables, code blocks and headings of a page's article."""

    def __init__(self, inside: bool) -> None:
        super().__init__()
        self.inside, self.count = inside, Counter[str]()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.inside |= tag == "article"
        if self.inside and tag in BLOCK_TAGS:
            self.count[tag] += 1

    def handle_endtag(self, tag: str) -> None:
        self.inside &= tag != "article"


@pytest.mark.parametrize("page", [page for page in PAGES if page.name not in FROM_CODE], ids=lambda page: page.name)
def test_a_page_has_the_same_blocks_in_the_site_as_in_other_viewers(site: Path, page: Path) -> None:
    """Markdown's dialects differ: a list right behind a paragraph is none in the site."""
    shown, elsewhere = Blocks(False), Blocks(True)
    shown.feed(built(site, page.name))
    elsewhere.feed(PARSER.render(page.read_text(encoding="utf-8")))
    assert shown.count == elsewhere.count
    assert "\\|" not in built(site, page.name), "a bar in code in a table: the site shows its backslash, too"
    assert "<th></th>\n<th></th>\n</tr>" not in built(site, page.name), "a table's columns have no names"


def test_the_reference_has_every_public_name(site: Path) -> None:
    page = built(site, "api.md")
    assert [name for name in quee.__all__ if name != "__version__" and f"quee.{name}" not in page] == []


@pytest.mark.parametrize("block", BLOCKS)
def test_every_setting_says_what_it_is(block: str) -> None:
    assert f"\n## `{block}`\n" in (DOCS / "settings.md").read_text(encoding="utf-8")
    for node in ast.parse((ROOT / f"quee/settings/{block}.py").read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ClassDef):
            assert ast.get_docstring(node), node.name
            for field, behind in zip(node.body, [*node.body[1:], None], strict=True):
                if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
                    said = isinstance(behind, ast.Expr) and isinstance(behind.value, ast.Constant)
                    assert said, f"{node.name}.{field.target.id}"


def anchors(page: Path) -> set[str]:
    """Anchors of a page's headings, as GitHub and the site make them."""
    tokens, slug = PARSER.parse(page.read_text(encoding="utf-8")), slugify(case="lower")
    titles = [behind for token, behind in pairwise(tokens) if token.type == "heading_open"]
    return {slug("".join(child.content for child in title.children or ()), "-") for title in titles}


def in_root(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def links(page: Path) -> list[str]:
    """Targets of a page's links and pictures."""

    def walk(tokens: list[Token]) -> list[str]:
        own = [str(token.attrs.get("href") or token.attrs.get("src") or "") for token in tokens]
        return own + [found for token in tokens for found in walk(token.children or [])]

    return [target for target in walk(PARSER.parse(page.read_text(encoding="utf-8"))) if target]


@pytest.mark.parametrize("page", [ROOT / "README.md", ROOT / "CHANGELOG.md", *PAGES], ids=in_root)
def test_a_link_leads_somewhere(page: Path) -> None:
    for target in links(page):
        if not re.match(r"\w+:", target):
            path, _, anchor = unquote(target).partition("#")
            file = (page.parent / path) if path else page
            assert file.exists(), target
            assert not anchor or anchor in anchors(file), target


NAMED = re.compile(r"\bdocs/([\w-]+\.md)(?:#([\w-]+))?")


def test_a_page_that_the_code_names_is_there() -> None:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True, text=True).stdout
    kinds = (".py", ".yaml", ".yml", ".toml", ".sh", ".html", ".js", "Makefile")
    files = [ROOT / name for name in listed.split("\0") if name.endswith(kinds) and not name.startswith("remote/")]
    named = {found for file in files if file.is_file() for found in NAMED.findall(file.read_text(encoding="utf-8"))}
    assert named
    for page, anchor in named:
        assert (DOCS / page).is_file(), page
        assert not anchor or anchor in anchors(DOCS / page), f"{page}#{anchor}"
