"""The gallery as a person uses it: sorted by mouse and by keyboard, at the width of a phone and of a desk."""

from __future__ import annotations

import pytest
from browser import DESK, PHONE, chromium, complaints, open_page, overflowing
from gallery_releases import HOSTILE, write_release

from hf_immunize.release.gallery import gallery, save_gallery
from hf_immunize.release.record import DatasetRecord

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def browser():
    with chromium() as driven:
        yield driven


@pytest.fixture(scope="module")
def page(browser, tmp_path_factory):
    """Three releases, one of which gives hostile text wherever it can, and one that cannot be shown."""
    root = tmp_path_factory.mktemp("releases")
    hostile = {name: DatasetRecord(HOSTILE) for name in ("primary", "harmful")}
    hostile |= dict.fromkeys(("base_model", "architecture", "license"), HOSTILE)
    folders = [
        write_release(root / "often-recovered", recovery=0.9, pictures=True, verified=True),
        write_release(root / "rarely-recovered", recovery=0.1),
        write_release(root / HOSTILE.replace("/", "∕"), recovery=None, **hostile),
        root / HOSTILE.replace("/", "∖"),
    ]
    entries, failed = gallery([str(one) for one in folders])
    assert (len(entries), len(failed)) == (3, 1)
    return save_gallery(entries, root / "gallery.html", failed=failed, title=HOSTILE).as_uri()


def rows(browser):
    return [one.text.split("\n")[0][:5] for one in browser.find_elements("css selector", "tbody th a")]


def order(browser):
    heads = browser.find_elements("css selector", "[aria-sort]")
    return {one.get_attribute("data-name"): one.get_attribute("aria-sort") for one in heads}


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [PHONE, DESK])
def test_nothing_overflows_and_nothing_of_the_releases_runs(browser, page, width, dark):
    open_page(browser, page, width, dark=dark)
    assert overflowing(browser) == []
    assert complaints(browser) == []
    assert browser.title == " ".join(HOSTILE.split())
    pictures = browser.find_elements("css selector", "img")
    assert len(pictures) == 2
    shown = browser.find_element("tag name", "body").text
    assert shown.count(HOSTILE[:40]) >= 5
    for one in pictures:
        browser.execute_script("arguments[0].scrollIntoView()", one)
        assert browser.execute_async_script("arguments[0].decode().then(() => arguments[1](true))", one)
        assert one.size["width"] <= width


def test_the_policy_of_the_page_stops_a_script_that_got_into_it(browser, page):
    open_page(browser, page, DESK)
    browser.execute_script(
        "const one = document.createElement('script'); one.textContent = \"document.title = 'run'\";"
        "document.body.append(one);"
    )
    assert browser.title != "run"
    assert "Content Security Policy" in complaints(browser)[0]


def test_the_table_is_sorted_by_its_headings(browser, page):
    open_page(browser, page, DESK)
    assert rows(browser) == ["rarel", "often", HOSTILE[:5]]
    assert order(browser) == {"recovery by heads": "ascending"}
    head = browser.find_element("css selector", "th[data-column='6'] button")
    head.click()
    # What was not measured stays last.
    assert rows(browser) == ["often", "rarel", HOSTILE[:5]]
    assert order(browser) == {"recovery by heads": "descending"}
    browser.find_element("css selector", "th[data-column='11'] button").click()
    assert order(browser) == {"verification": "ascending"}
    assert rows(browser)[0] == "often"
    assert browser.find_element("id", "sorted").text == "Sorted by verification, A to Z."


def test_the_table_is_sorted_by_the_keyboard_alone(browser, page):
    keys = pytest.importorskip("selenium.webdriver.common.keys").Keys
    open_page(browser, page, DESK)
    for _ in range(20):
        browser.switch_to.active_element.send_keys(keys.TAB)
        if browser.switch_to.active_element.tag_name == "button":
            break
    focused = browser.switch_to.active_element
    assert focused.text.startswith("Model")
    focused.send_keys(keys.ENTER)
    assert order(browser) == {"name": "ascending"}
    focused.send_keys(keys.SPACE)
    assert order(browser) == {"name": "descending"}
    assert rows(browser) == ["rarel", "often", HOSTILE[:5]]
    # The focus stays where it was, so that one goes on from there.
    assert browser.switch_to.active_element == focused


def test_a_phone_shows_cards_and_sorts_them_by_a_menu(browser, page):
    select = pytest.importorskip("selenium.webdriver.support.select").Select
    open_page(browser, page, PHONE)
    assert not browser.find_element("tag name", "thead").is_displayed()
    menu = select(browser.find_element("id", "sort-by"))
    assert menu.first_selected_option.text == "recovery by heads"
    browser.find_element("id", "sort-turn").click()
    assert rows(browser) == ["often", "rarel", HOSTILE[:5]]
    menu.select_by_visible_text("strongest head, immunized")
    assert order(browser) == {"strongest head, immunized": "ascending"}
    assert rows(browser) == ["rarel", "often", HOSTILE[:5]]
    assert browser.find_element("id", "sort-turn").text == "Smallest first"
    cell = browser.find_element("css selector", "tbody td")
    label = browser.execute_script("return getComputedStyle(arguments[0], '::before').content", cell)
    assert label == '"claimed RIR"'
    # The cards are still rows and cells to whoever hears the page.
    roles = browser.execute_script("return [...document.querySelectorAll('table *')].map((one) => one.role)")
    assert {"row", "cell", "rowheader", "columnheader", "rowgroup"} <= set(roles)


def test_every_name_leads_to_its_part_of_the_page(browser, page):
    open_page(browser, page, DESK)
    for link in browser.find_elements("css selector", "tbody th a, .back a"):
        target = link.get_attribute("href").split("#")[1]
        assert len(browser.find_elements("id", target)) == 1
    headings = [one.get_attribute("scope") for one in browser.find_elements("css selector", "th")]
    assert set(headings) == {"col", "colgroup", "row"}
