"""The report in a real browser: it opens from the disk, asks no network, fits a keyboard, and keeps decisions."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from ovlabel.report import ReportOptions, make_report
from ovlabel.store.decisions import read_decisions, take_in
from ovlabel.store.example import write_example
from ovlabel.store.manifest import Manifest
from ovlabel.store.read import open_store
from ovlabel.store.record import Record
from ovlabel.store.write import writing
from ovlabel.text.vocabulary import Vocabulary, VocabularyClass
from ovlabel.types import Annotation

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed")
if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine (Debian: apt install chromium)")
QUIET = [
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
HOSTILE = [
    "<script>alert(1)</script>.png",
    "line\nbreak.png",
    "\udcff.png",
    "\u202egnp.x",
    "a b&amp;.png",
    "'\"`${1}.png",
]
MANY = 10_000


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with playwright.sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        yield opened
        opened.close()


class Opened:
    """A page of a report, what it asked for and what went wrong in it."""

    def __init__(self, page: Page, root: Path) -> None:
        self.page, self.root = page, root
        self.asked: list[str] = []
        self.errors: list[str] = []
        page.on("request", lambda request: self.asked.append(request.url))
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("console", lambda message: self.errors.append(message.text) if message.type == "error" else None)
        self.go("overview")

    def go(self, where: str) -> None:
        self.page.goto((self.root / "index.html").as_uri() + "#" + where)
        self.page.wait_for_selector("html[data-ready]")
        self.page.wait_for_selector(f"#{where}:not([hidden])")

    def check(self) -> None:
        assert self.errors == []
        own = self.root.as_uri()
        assert [url for url in self.asked if not url.startswith((own, "blob:"))] == []


@pytest.fixture
def visit(browser: Browser) -> Iterator[Any]:
    contexts = []

    def opened(root: Path, **options: Any) -> Opened:
        contexts.append(
            browser.new_context(
                viewport={"width": 1200, "height": 800}, accept_downloads=True, **{"bypass_csp": True, **options}
            )
        )
        return Opened(contexts[-1].new_page(), root)

    yield opened
    for context in contexts:
        context.close()


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report of two images with ground truth and another store."""
    folder = write_example(tmp_path_factory.mktemp("small"))
    store = folder / "images.ovlabel.zarr"
    return make_report(store, folder / "report", ReportOptions(folder / "truth", "raw", store)).page.parent


def many_images(folder: Path, keys: list[str]) -> Path:
    """A store of images of one colour, of two pixels each."""
    (folder / "images").mkdir(parents=True)
    path = folder / "s.zarr"
    words = Vocabulary("v", "v", "", (VocabularyClass("<b>cat</b>"), VocabularyClass("dog <i>&amp;")))
    make = partial(Manifest.new, path, folder / "images", words, {"store": {"probabilities": "none"}}, {})
    random = np.random.default_rng(0)
    with writing(path, create=make) as store:
        for start in range(0, len(keys), 2000):
            entries = []
            for key in keys[start : start + 2000]:
                digest = hashlib.sha256(key.encode(errors="surrogatepass")).hexdigest()
                sure = random.integers(0, 256, (1, 2)).astype(np.uint8)
                entries.append(
                    (Record(key, 1, 1, digest), Annotation(np.array([[0, 1]], np.uint8), sure, None, None, (1, 2)))
                )
            store.commit(entries)
    return path


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report of ten thousand images, some of them with hostile names."""
    folder = tmp_path_factory.mktemp("large")
    keys = [*HOSTILE, *(f"{number:05}.png" for number in range(MANY - len(HOSTILE)))]
    return make_report(many_images(folder, keys), folder / "report", ReportOptions(top=10)).page.parent


def test_ten_thousand_images_open_and_only_what_is_seen_is_in_the_page(large: Path, visit: Any) -> None:
    opened = visit(large)
    opened.go("review")
    page = opened.page
    assert page.inner_text("#count") == "10,000 of 10,000 images"
    assert page.locator(".cell").count() < 100
    page.locator("#grid").evaluate("grid => grid.scrollTop = grid.scrollHeight")
    page.wait_for_function("document.querySelector('.cell[data-index]') && document.querySelector('#rows').lastChild")
    assert page.locator(".cell").count() < 100
    heap = page.evaluate("performance.memory.usedJSHeapSize")
    assert heap < 50e6
    opened.check()


def test_the_pages_keep_to_their_content_security_policy(small: Path, visit: Any) -> None:
    opened = visit(small, bypass_csp=False)
    for where in ("overview", "review", "classes", "statistics"):
        opened.go(where)
    opened.go("review")
    opened.page.locator(".cell").nth(0).click()
    opened.page.wait_for_selector("#wrong input")
    opened.check()


def test_hostile_names_are_text(large: Path, visit: Any) -> None:
    opened = visit(large)
    opened.go("review")
    opened.page.select_option("#queue", "name")
    names = opened.page.locator(".cell bdi").all_inner_texts()
    opened.page.fill("#find", "<script>")
    assert opened.page.locator(".cell bdi").all_inner_texts() == ["<script>alert(1)</script>.png"]
    assert opened.page.locator("script:not([src])").count() == 0
    assert opened.page.locator("main b").count() == 0
    opened.page.fill("#find", "line")
    assert opened.page.locator(".cell bdi").all_inner_texts() == ["line\\u000abreak.png"]
    assert len(names) > 0
    opened.check()


def test_every_key(small: Path, visit: Any) -> None:
    opened = visit(small)
    opened.go("review")
    page = opened.page
    page.select_option("#queue", "by_class")  # b.png comes first
    page.focus("#grid")
    page.keyboard.press("Enter")
    page.wait_for_selector("#viewer[open]")
    assert page.inner_text("#viewer-name") == "b.png"
    page.wait_for_function("document.querySelectorAll('#wrong input').length === 3")
    page.keyboard.press("ArrowRight")
    assert page.inner_text("#viewer-name") == "a.png"
    page.keyboard.press("ArrowLeft")
    assert page.inner_text("#viewer-name") == "b.png"
    for key, decision in (("a", "accept"), ("f", "fix"), ("r", "reject")):
        page.keyboard.press(key)
        page.keyboard.press("ArrowLeft")
        assert page.get_attribute(f"#{decision}", "aria-pressed") == "true", key
    page.keyboard.press("u")
    assert page.get_attribute("#fix", "aria-pressed") == "true"
    page.wait_for_function("document.querySelector('#show').options.length > 3")
    for shown in ("wrong", "truth", "sure", "other", "none", "labels"):
        page.keyboard.press("m")
        assert page.input_value("#show") == shown
    page.keyboard.press("o")
    assert page.input_value("#opacity") == "0"
    page.keyboard.press("o")
    assert page.input_value("#opacity") == "55"
    page.keyboard.press("n")
    page.keyboard.type("blurred a f r")
    page.keyboard.press("Tab")
    assert page.get_attribute("#fix", "aria-pressed") == "true", "letters of a note decide nothing"
    page.keyboard.press("?")
    assert page.locator("#keys[open]").count() == 1
    page.keyboard.press("Escape")
    page.keyboard.press("Escape")
    assert page.locator("#viewer[open]").count() == 0
    page.keyboard.press("ArrowRight")
    assert page.evaluate("document.activeElement.classList.contains('cell')")
    opened.check()


def test_names_under_the_pointer(small: Path, visit: Any) -> None:
    opened = visit(small)
    opened.go("review")
    page = opened.page
    page.select_option("#queue", "name")
    page.locator(".cell").nth(1).click()
    page.wait_for_function("document.querySelectorAll('#wrong input').length === 3")
    box = page.locator("#stage").bounding_box()
    assert box is not None
    side = min(box["width"], box["height"])
    middle = (box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    for dx, dy, said in ((-1, -1, "grass · truth: grass"), (-1, 1, "dog · truth: dog"), (1, 1, "cat · truth: dog")):
        page.mouse.move(middle[0] + dx * side / 4, middle[1] + dy * side / 4)
        assert page.inner_text("#pointed").startswith(said)
    opened.check()


def test_decisions_survive_a_reload_and_are_saved_with_the_checksums_of_the_labels(
    small: Path, visit: Any, tmp_path: Path
) -> None:
    opened = visit(small)
    opened.go("review")
    page = opened.page
    page.fill("#reviewer", "Ada")
    page.select_option("#queue", "name")
    page.locator(".cell").nth(0).click()
    page.wait_for_selector("#viewer[open]")
    page.keyboard.press("a")
    page.wait_for_function("document.querySelectorAll('#wrong input').length === 3")
    page.locator("#wrong input").nth(1).check()
    page.keyboard.press("Escape")
    page.reload()
    page.wait_for_selector("html[data-ready]")
    with page.expect_download() as saved:
        page.click("#save")
    saved.value.save_as(tmp_path / "decisions.json")
    held = json.loads((tmp_path / "decisions.json").read_text())
    assert (held["format"], held["version"]) == ("ovlabel-decisions", 1)
    decided = {entry["key"]: (entry["decision"], entry["reviewer"]) for entry in held["decisions"]}
    assert decided == {"a.png": ("accept", "Ada"), "b.png": ("fix", "Ada")}, "a wrong class alone means: to be fixed"
    assert all(len(entry["sums"]) == 16 for entry in held["decisions"])

    with writing(small.parent / "images.ovlabel.zarr") as store:
        assert take_in(store, tmp_path / "decisions.json").taken == 2
    assert read_decisions(open_store(small.parent / "images.ovlabel.zarr"))["b.png"].classes == ("dog",)

    fresh = visit(small)
    fresh.go("review")
    held["decisions"][0]["sums"] = "0" * 16
    (tmp_path / "decisions.json").write_text(json.dumps(held))
    fresh.page.set_input_files("#load", tmp_path / "decisions.json")
    fresh.page.wait_for_function("document.querySelector('#saved').textContent.includes('taken in')")
    assert fresh.page.inner_text("#saved") == "1 decisions taken in, 1 belong to other labels"
    opened.check()
    fresh.check()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("where", ["overview", "review", "classes", "statistics"])
def test_axe_finds_nothing(small: Path, visit: Any, scheme: str, where: str) -> None:
    opened = visit(small, color_scheme=scheme)
    opened.go(where)
    if where == "review":
        opened.page.locator(".cell").nth(0).click()
        opened.page.wait_for_function("document.querySelectorAll('#wrong input').length > 0")
    found = axe.Axe().run(opened.page)
    assert [(one["id"], [node["html"][:200] for node in one["nodes"]]) for one in found.response["violations"]] == []
