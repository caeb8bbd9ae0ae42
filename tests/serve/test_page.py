"""The page in a real browser: Chromium, driven by Playwright."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from cytoloc._typing import UInt8Array
from cytoloc.dataset.store import Dataset
from cytoloc.predict.model import Model
from cytoloc.serve.settings import ServeSettings
from tests.serve.conftest import TOKEN, Running, png_files, running

CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)
AXE = Path(__file__).with_name("vendored") / "axe.min.js"

pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed, for example by apt-get install chromium"),
    pytest.mark.filterwarnings("ignore::cytoloc.errors.ModelCaution"),
    pytest.mark.filterwarnings("ignore::cytoloc.errors.EngineWarning"),
]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        arguments = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
        yield playwright.chromium.launch(executable_path=CHROMIUM, args=arguments)


@pytest.fixture
def page(browser: Browser, server: Running) -> Iterator[Page]:
    """Return the page, which must not have errors in its scripts."""
    with browser.new_context(viewport={"width": 1200, "height": 900}, bypass_csp=True) as context:
        tab = context.new_page()
        tab.set_default_timeout(60_000)
        problems: list[str] = []
        tab.on("pageerror", lambda error: problems.append(str(error)))
        tab.goto(server.address)
        yield tab
        assert problems == []


BRIGHTNESS = """() => {
    const canvas = document.getElementById('canvas');
    const values = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data;
    const sums = [0, 0, 0];
    for (let i = 0; i < values.length; i += 4) for (let c = 0; c < 3; c++) sums[c] += values[i + c];
    return sums.map((sum) => sum * 4 / values.length);
}"""


def brightness(page: Page) -> list[float]:
    """Return the mean red, green and blue of the canvas."""
    values: list[float] = page.evaluate(BRIGHTNESS)
    return values


def upload(page: Page, *paths: Path) -> None:
    """Choose files on the page for predictions."""
    page.click("nav [data-view=predict]")
    page.set_input_files("#files", list(paths))


def refuse_violations(page: Page) -> None:
    """Fail if axe finds something that keeps people from using the page."""
    page.add_script_tag(path=str(AXE))
    found = page.evaluate("async () => (await axe.run()).violations.map((v) => [v.id, v.nodes.map((n) => n.html)])")
    assert found == [], json.dumps(found, indent=1)


def test_channels_can_be_hidden_recolored_and_stretched(page: Page, field: UInt8Array, tmp_path: Path) -> None:
    upload(page, *png_files(field, tmp_path).values())
    # Channels are recognized by the names of the files.
    assert [page.locator(f"[name=file-{n}]").input_value() for n in range(4)] == [
        "microtubules",
        "protein",
        "nucleus",
        "er",
    ]
    page.click("#assign .primary")
    expect(page.locator("#bars button").first).to_contain_text("Nucleoli")
    expect(page.locator("#channels .channel")).to_have_count(4)
    shown = brightness(page)
    page.uncheck("#visible-nucleus")
    assert brightness(page)[2] < shown[2] / 2
    page.check("#visible-nucleus")
    assert brightness(page) == shown
    page.locator("[aria-label='protein: white level']").fill("10")
    assert brightness(page)[1] > shown[1]
    page.locator("[aria-label='Color of protein']").fill("#ff00ff")
    assert brightness(page)[1] < shown[1]
    page.focus("#canvas")
    page.keyboard.press("+")
    page.keyboard.press("ArrowRight")
    zoomed = brightness(page)
    page.keyboard.press("0")
    assert brightness(page) != zoomed


def test_the_map_of_a_location_is_shown_over_the_image(page: Page) -> None:
    page.click("nav [data-view=predict]")
    page.click("#example-list button >> nth=0")
    expect(page.locator("#channels .channel")).to_have_count(4)
    for name in ("microtubules", "protein", "nucleus", "er"):
        page.uncheck(f"#visible-{name}")
    assert max(brightness(page)) == 0
    button = page.locator("#bars button").first
    button.click()
    expect(button).to_have_attribute("aria-pressed", "true")
    page.wait_for_function(f"({BRIGHTNESS})().some((mean) => mean > 0)")
    button.click()
    assert max(brightness(page)) == 0
    expect(page.locator("#cell svg")).to_have_attribute(
        "aria-label", re.compile("^Schematic cell. Highlighted: Nucleoli")
    )
    page.click("#all-bars")
    expect(page.locator("#bars li")).to_have_count(28)


def test_figures_and_tables_can_be_saved(page: Page, tmp_path: Path) -> None:
    page.click("nav [data-view=predict]")
    page.click("#example-list button >> nth=1")
    expect(page.locator("#channels .channel")).to_have_count(4)
    contents = {}
    for kind in ("png", "svg", "csv"):
        with page.expect_download() as waiting:
            page.click(f"#save-{kind}")
        waiting.value.save_as(tmp_path / kind)
        contents[kind] = (tmp_path / kind).read_bytes()
    assert contents["png"].startswith(b"\x89PNG")
    assert b"Golgi apparatus" in contents["svg"]
    assert contents["csv"].startswith(b"id,location,go_id,probability,threshold,predicted\n")
    assert contents["csv"].count(b"\n") == 29


def test_the_page_asks_about_channels_that_were_not_imaged(page: Page, field: UInt8Array, tmp_path: Path) -> None:
    paths = png_files(field, tmp_path)
    upload(page, paths["protein"], paths["nucleus"], paths["microtubules"])
    page.click("#assign .primary")
    expect(page.locator("#absent-rows select")).to_have_count(1)
    page.select_option("#absent-rows select", "microtubules")
    page.click("#assign .primary")
    expect(page.locator("#result-caution")).to_contain_text("er not imaged")


def test_errors_are_shown_and_the_page_goes_on(page: Page, field: UInt8Array, tmp_path: Path) -> None:
    bad = tmp_path / "broken.png"
    bad.write_bytes(b"no image")
    upload(page, bad)
    page.click("#assign .primary")
    expect(page.locator("#message")).to_contain_text("not a PNG file")
    other = tmp_path / "notes.txt"
    other.write_text("no image")
    upload(page, other)
    page.click("#assign .primary")
    expect(page.locator("#message")).to_contain_text("not of a supported kind")
    upload(page, *list(png_files(field, tmp_path).values())[:2])
    page.select_option("[name=file-0]", "protein")
    page.select_option("[name=file-1]", "protein")
    page.click("#assign .primary")
    expect(page.locator("#message")).to_contain_text("Two files are given for protein")
    page.click("#example-list button >> nth=0")
    expect(page.locator("#message")).to_be_hidden()
    expect(page.locator("#bars button").first).to_contain_text("Nucleoli")


def test_fields_are_filtered_opened_and_labeled(page: Page, server: Running, fields: Dataset) -> None:
    expect(page.locator("#grid li")).to_have_count(12)
    page.fill("[name=text]", fields.ids[5])
    expect(page.locator("#grid li")).to_have_count(1)
    page.click("#grid button")
    expect(page.locator("#result-title")).to_have_text(fields.ids[5])
    checked = page.locator("#label-rows input:checked")
    while checked.count():
        checked.first.uncheck()
    page.click("#labels .primary")
    expect(page.locator("#labels-state")).to_have_text("Choose at least one location.")
    page.get_by_label("Aggresome", exact=True).check()
    page.click("#labels .primary")
    expect(page.locator("#labels-state")).to_contain_text("You saved: Aggresome.")
    assert server.service.settings.corrections is not None
    assert f"{fields.ids[5]},24," in server.service.settings.corrections.read_text()
    page.click("#find-neighbors")
    expect(page.locator("#neighbor-grid li")).to_have_count(8)
    page.click("#neighbor-grid button >> nth=0")
    expect(page.locator("#result-title")).not_to_have_text(fields.ids[5])
    page.click("#close")
    page.fill("[name=text]", "")
    page.select_option("[name=show]", "corrected")
    expect(page.locator("#grid li")).to_have_count(1)
    page.click("#grid button")
    page.click("#unlabel")
    expect(page.locator("#labels-state")).to_contain_text("You saved no labels")


def test_a_token_is_asked_for(browser: Browser, builtin: Model) -> None:
    with running(builtin, ServeSettings(token=TOKEN, readers=1)) as server, browser.new_context() as context:
        tab = context.new_page()
        tab.goto(server.address)
        tab.fill("#token", "wrong")
        tab.click("#ask-token button")
        tab.fill("#token", TOKEN)
        tab.click("#ask-token button")
        expect(tab.locator("#example-list button")).to_have_count(6)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_is_accessible_and_fits_a_phone(browser: Browser, server: Running, scheme: str) -> None:
    phone = {"width": 390, "height": 800}
    with browser.new_context(viewport=phone, color_scheme=scheme, bypass_csp=True) as context:  # type: ignore[arg-type]
        tab = context.new_page()
        tab.goto(server.address)
        expect(tab.locator("#grid li")).to_have_count(12)
        refuse_violations(tab)
        tab.click("#grid button >> nth=0")
        expect(tab.locator("#channels .channel")).to_have_count(4)
        tab.click("#bars button >> nth=0")
        expect(tab.locator("#opacity-label")).to_be_visible()
        refuse_violations(tab)
        tab.click("nav [data-view=model]")
        refuse_violations(tab)
        tab.click("nav [data-view=predict]")
        refuse_violations(tab)
        assert tab.evaluate("document.documentElement.scrollWidth") <= 390
