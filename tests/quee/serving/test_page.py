"""The page in headless Chromium: upload, examples, slider, the drawn path, use by keyboard, a phone's width."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from endpoint import Endpoint, serving
from image_files import encoded

from quee.runtime.manifest import seal
from quee.work.io import read_json

pytestmark = pytest.mark.slow
api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed (extra `clients`)")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
TOKEN = "a-token-of-some-length"


@pytest.fixture(scope="module")
def browser() -> Iterator:
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine")
    with api.sync_playwright() as play:
        found = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield found
        found.close()


@pytest.fixture(scope="module")
def folder(images, tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("examples")
    for index in range(3):
        (made / f"digit {index}.png").write_bytes(encoded(images[0][index], "PNG"))
    return made


@pytest.fixture(scope="module")
def shown(bundle: Path, folder: Path) -> Iterator[Endpoint]:
    with serving(bundle, examples=folder, control=False) as running:
        yield running


@pytest.fixture(params=[(1280, 900), (360, 740)], ids=["desktop", "phone"])
def page(browser, shown: Endpoint, request) -> Iterator:
    width, height = request.param
    opened = browser.new_page(viewport={"width": width, "height": height})
    opened.set_default_timeout(30_000)
    faults: list[str] = []
    elsewhere: list[str] = []
    opened.on("pageerror", lambda error: faults.append(str(error)))
    opened.on(
        "console",
        lambda said: faults.append(said.text) if said.type == "error" and "status of 4" not in said.text else None,
    )
    own = (f"http://127.0.0.1:{shown.port}/", "blob:", "data:")
    opened.on("request", lambda asked: elsewhere.append(asked.url) if not asked.url.startswith(own) else None)
    opened.goto(f"http://127.0.0.1:{shown.port}/")
    opened.wait_for_selector("#examples button")
    yield opened
    opened.close()
    assert (faults, elsewhere) == ([], [])


def taken(page) -> list[str]:
    """Precisions on the drawn path."""
    return page.locator("#path text.on").all_text_contents()


def slide(page, value: int) -> None:
    with page.expect_response("**/v1/classify"):
        page.eval_on_selector("#budget", f"e => {{ e.value = {value}; e.dispatchEvent(new Event('input')) }}")
    page.wait_for_timeout(100)


def test_an_upload_is_drawn_as_the_bundle_routes_it(page, folder: Path, classifier) -> None:
    file = folder / "digit 1.png"
    page.set_input_files("#file", str(file))
    page.wait_for_selector("#gates tbody tr")
    low, high = classifier.points[0].cost, classifier.points[-1].cost
    for value in (0, 1000):
        slide(page, value)
        (expected,) = classifier.explain([str(file)], budget=low * (high / low) ** (value / 1000))
        assert taken(page) == expected.path.split("-")
        assert page.locator("#gates tbody tr").count() == len(expected.gates)
        assert page.locator("#status").text_content().startswith(f"{expected.label}, ")
        assert f"exit at gate {len(expected.gates)}" in page.locator("#path title").text_content()
    assert page.locator("#probabilities li").count() == 5
    assert "static w8a8" in page.locator("#costs").text_content()
    assert "would have spent" in page.locator("#saving").text_content()


def test_the_default_budget_is_marked_and_the_ends_are_explained(page, classifier) -> None:
    low, high = classifier.points[0].cost, classifier.points[-1].cost
    assert page.locator("#default").text_content() == f"default {classifier.budget:.3g}"
    assert page.get_attribute("#default", "aria-pressed") == "true"
    note = page.locator("#budget-note").text_content()
    assert f"costs {low:.3g}" in note and f"dearest {high:.3g}" in note
    page.eval_on_selector("#budget", "e => { e.value = 0; e.dispatchEvent(new Event('input')) }")
    assert page.get_attribute("#default", "aria-pressed") == "false"
    page.click("#default")
    assert page.locator("#budget-text").text_content() == f"{classifier.budget:.3g}"
    page.select_option("#kind", "accuracy_loss")
    assert page.locator("#default").is_hidden()


def test_a_default_beyond_the_points_is_on_the_slider(browser, bundle: Path, folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "bundle"
    shutil.copytree(bundle, copy)
    described = {k: v for k, v in read_json(copy / "bundle.json").items() if k not in ("digest", "files", "format")}
    seal(copy, {**described, "budget": 30.0})
    with serving(copy, examples=folder) as endpoint:
        opened = browser.new_page()
        opened.goto(f"http://127.0.0.1:{endpoint.port}/")
        opened.wait_for_selector("#examples button")
        assert opened.input_value("#budget") == "1000"
        assert opened.locator("#budget-text").text_content() == "30"
        opened.close()


def test_nothing_is_wider_than_the_window(page, folder: Path) -> None:
    page.set_input_files("#file", str(folder / "digit 0.png"))
    page.wait_for_selector("#gates tbody tr")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_the_keyboard_suffices_and_all_has_names(page) -> None:
    names = []
    for _ in range(12):
        page.keyboard.press("Tab")
        role = page.evaluate("document.activeElement.id || document.activeElement.tagName")
        if role == "BUTTON" and page.locator("#gates tbody tr").count() == 0:
            page.keyboard.press("Enter")
            page.wait_for_selector("#gates tbody tr")
        if role == "budget":
            with page.expect_response("**/v1/classify"):
                page.keyboard.press("End")
            assert page.eval_on_selector("#budget", "e => e.value") == "1000"
            assert "of the static network" in page.get_attribute("#budget", "aria-valuetext")
            break
        names.append(role)
    assert "file" in names
    assert page.get_by_label("Budget", exact=True).count() >= 1
    assert page.get_by_role("button", name="digit 0", exact=True).get_attribute("aria-pressed") in ("true", "false")
    assert page.get_by_role("status").count() == 1
    assert page.locator("html").get_attribute("lang") == "en"


def test_a_file_that_is_no_image_is_told_in_words(page, tmp_path: Path) -> None:
    (tmp_path / "not.png").write_bytes(b"hello")
    with page.expect_response("**/v1/classify") as refused:
        page.set_input_files("#file", str(tmp_path / "not.png"))
    assert refused.value.status == 400
    page.wait_for_selector("#status.bad")
    assert "not a readable" in page.locator("#status").text_content()


def test_the_description_is_shown(browser, shown: Endpoint) -> None:
    opened = browser.new_page()
    opened.goto(f"http://127.0.0.1:{shown.port}/page/docs.html")
    opened.wait_for_selector("h2")
    assert "POST /v1/classify" in opened.locator("main").text_content()
    opened.close()


def test_with_a_token_the_page_asks_for_it(browser, bundle: Path, folder: Path) -> None:
    with serving(bundle, examples=folder, token=TOKEN) as endpoint:
        opened = browser.new_page()
        opened.goto(f"http://127.0.0.1:{endpoint.port}/")
        opened.wait_for_selector("#token-form:not([hidden])")
        opened.fill("#token", TOKEN)
        opened.keyboard.press("Enter")
        opened.wait_for_selector("#examples button")
        opened.close()
