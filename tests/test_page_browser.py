"""The committed page in a browser, from disk and without a network: cards by search, keys, click and address."""

import json
import shutil
from contextlib import contextmanager
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path

import pytest
from defaults import of_the_default_run

from stages import compare, look
from stages.families import FAMILIES
from stages.page import cards, inputs

PAGE = Path(__file__).parents[1] / "reports" / "index.html"
SLOTS = PAGE.parent / "slots"


@of_the_default_run
def test_cards_hold_the_numbers_of_the_tables():
    slot = inputs.read("decoder", SLOTS / "decoder")
    shown = cards.cards(slot, FAMILIES)
    assert list(shown) == [f"L{layer}H{head}" for layer, head in sorted(set(zip(slot.heads["layer"], slot.heads["head"], strict=True)))]  # fmt: skip  # noqa: E501
    for name in ("L0H0", "L5H1"):
        own = slot.heads[(slot.heads["layer"] == int(name[1])) & (slot.heads["head"] == int(name[-1]))]
        own = own.set_index("family")
        scores = next(table for table in shown[name]["tables"] if table["title"] == "Scores in all families")
        for row in scores["rows"]:
            family = dict(zip(scores["columns"], row, strict=True))
            assert family["score"] == f"{own['score'][row[0]]:.2f}".replace("-0.00", "0.00")
            assert family["member"] == ("yes" if own["member"][row[0]] == 1 else "no")
            better = slot.heads[(slot.heads["family"] == row[0]) & (slot.heads["score"] > own["score"][row[0]])]
            assert int(family["rank"]) == 1 + len(better)
    alone = next(t for t in shown["L5H1"]["tables"] if t["title"].startswith("Silenced alone"))
    assert len(alone["rows"]) == len(slot.causal[(slot.causal["layer"] == 5) & (slot.causal["head"] == 1)])
    together = next(t for t in shown["L5H1"]["tables"] if t["title"].startswith("Silenced together"))
    assert all("L5H1" in row[1].split() for row in together["rows"])


@of_the_default_run
def test_the_listing_is_one_row_per_head():
    slot = inputs.read("decoder", SLOTS / "decoder")
    table = cards.listing(slot, FAMILIES)
    inside = slot.heads[slot.heads["member"] == 1]
    for row in table["rows"]:
        layer, head = map(int, row[0][1:].split("H"))
        own = inside[(inside["layer"] == layer) & (inside["head"] == head)]["family"].str.split(":grammar").str[0]
        names = {"grammar" if name.startswith("grammar:") else name for name in own}
        assert names == (set() if row[1] == "none" else set(row[1].split(", ")))


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    binary = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if binary is None:
        pytest.skip("no chromium on this machine")
    with playwright.sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=binary, args=["--no-sandbox"])
        yield opened
        opened.close()


@contextmanager
def opened_at(browser, width: int, address: str, **options):
    """Open an address without a network; errors of the console are asserted away in the end."""
    context = browser.new_context(offline=True, viewport={"width": width, "height": 900}, **options)
    opened, errors = context.new_page(), []
    opened.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    opened.on("pageerror", lambda error: errors.append(str(error)))
    opened.goto(address)
    yield opened
    context.close()
    assert not errors


@pytest.fixture(params=[400, 1400])
def page(browser, request):
    with opened_at(browser, request.param, PAGE.as_uri()) as opened:
        yield opened


def head_of(page) -> str:
    return page.inner_text("#card-title") if page.evaluate("document.getElementById('card').open") else ""


def shows(page, title: str) -> bool:
    """Wait until the card has this title, or is closed where there is none: an address is followed a moment later."""
    opened = "document.getElementById('card').open"
    named = "document.getElementById('card-title').textContent === title"
    page.wait_for_function(f"title => title ? {opened} && {named} : !{opened}", arg=title, timeout=5000)
    return True


@of_the_default_run
def test_a_head_is_found_by_search_keys_and_address(page):
    page.fill("#search", "L5H1")
    page.keyboard.press("Enter")
    assert shows(page, "L5H1 of decoder") and page.url.endswith("#decoder/L5H1")
    page.keyboard.press("ArrowRight")
    assert shows(page, "L5H2 of decoder") and page.url.endswith("#decoder/L5H2")
    page.keyboard.press("ArrowDown")
    assert shows(page, "L6H2 of decoder")
    page.keyboard.press("Escape")
    assert shows(page, "") and "#" not in page.url
    page.evaluate("location.hash = 'encoder/L2H3'")
    page.wait_for_function("document.getElementById('card').open")
    assert shows(page, "L2H3 of encoder")
    page.keyboard.press("Escape")
    page.fill("#search", "L99H0")
    page.keyboard.press("Enter")
    assert shows(page, "") and not page.evaluate("document.getElementById('search').checkValidity()")
    for address in ("__proto__/L0H0", "constructor/L0H0"):
        page.evaluate("address => { location.hash = address; }", address)
        page.fill("#search", address)
        page.keyboard.press("Enter")
        assert shows(page, "") and not page.evaluate("document.getElementById('search').checkValidity()")
    page.fill("#search", "Encoder/l2h3")
    page.keyboard.press("Enter")
    page.wait_for_function("document.getElementById('card').open")
    assert shows(page, "L2H3 of encoder")
    page.keyboard.press("Escape")
    page.fill("#search", "L0H3")
    page.keyboard.press("Enter")
    page.wait_for_function("document.getElementById('card').open")
    page.keyboard.press("ArrowRight")
    assert shows(page, "L1H0 of decoder")


@of_the_default_run
def test_a_section_is_found_though_the_figures_above_it_are_drawn_on_the_way(page):
    for section in ("decoder-intact", "encoder-heads", "recipe-induction"):
        page.evaluate("section => { location.hash = section; }", section)
        page.wait_for_timeout(1500)
        top = page.evaluate("section => document.getElementById(section).getBoundingClientRect().top", section)
        assert -2 < top < 40


def test_the_first_result_is_on_the_first_screen_and_the_sections_beside_it_where_there_is_room(page):
    wide = page.viewport_size["width"] == 1400
    assert page.evaluate("document.querySelector('nav .menu').open") == wide
    first = page.locator("#decoder-found p").first.bounding_box()
    assert first["y"] + first["height"] < page.viewport_size["height"]
    if not wide:
        page.click("nav .menu > summary")
    assert page.locator("nav a", has_text="Grammar heads").first.is_visible()


@of_the_default_run
def test_a_click_on_a_map_opens_the_card_and_a_column_sorts(page):
    maps = page.locator("#decoder-heads .maps .chart").first
    maps.scroll_into_view_if_needed()
    page.wait_for_selector("#decoder-heads .maps .chart svg .mark-rect path")
    maps.locator(".mark-rect path").nth(5).click(force=True)
    page.wait_for_function("document.getElementById('card').open")
    assert head_of(page).endswith(" of decoder")
    page.keyboard.press("Escape")
    page.click("#decoder details.all-heads summary")
    table = page.locator("#decoder details.all-heads table")
    table.locator("thead button", has_text="induction").first.click()
    first = table.locator("tbody tr").first.locator("th").inner_text()
    top = inputs.read("decoder", SLOTS / "decoder").heads.query("family == 'induction'").nlargest(1, "score").iloc[0]
    assert first == f"L{top['layer']:.0f}H{top['head']:.0f}"
    page.fill("#decoder details.all-heads input", "retrieval")
    shown = table.locator("tbody tr:visible")
    assert 0 < shown.count() < table.locator("tbody tr").count()
    assert "retrieval" in shown.first.inner_text()


def test_the_page_is_not_wider_than_the_window_and_figures_are_drawn_when_seen(page):
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    page.locator(".chart").first.scroll_into_view_if_needed()
    page.wait_for_selector(".chart svg")
    drawn = page.evaluate("document.querySelectorAll('.chart svg').length")
    assert 0 < drawn < page.evaluate("document.querySelectorAll('.chart').length")
    headings = "[...document.querySelectorAll('main :is(h1, h2, h3, h4)')].map(heading => +heading.tagName[1])"
    assert all(after - before <= 1 for before, after in pairwise(page.evaluate(headings)))


@of_the_default_run
def test_a_card_shows_what_the_head_looks_at(page):
    known = json.loads((SLOTS / "decoder" / "examples.json").read_text(encoding="utf-8"))["families"]
    page.evaluate("location.hash = 'decoder/L5H1'")
    assert shows(page, "L5H1 of decoder")
    families = page.locator("#card-content h4").all_inner_texts()
    assert {"sink", "induction", "retrieval"} <= set(families)
    strip = page.locator("#card-content .strip").nth(families.index("induction"))
    of_family, seen = known["induction"], known["induction"]["heads"]["L5H1"]
    assert strip.locator("span").count() == len(of_family["cells"])
    outlined = strip.locator(".target").all_inner_texts()
    assert len(outlined) == len(of_family["targets"])
    assert all(text.startswith(of_family["cells"][at]) for text, at in zip(outlined, of_family["targets"], strict=True))
    assert f"{seen['on_target']:.2f} of the attention on the target" in strip.get_attribute("aria-label")
    page.keyboard.press("ArrowRight")
    assert shows(page, "L5H2 of decoder") and page.locator("#card-content .strip").count()


@pytest.fixture(scope="module")
def addresses(tmp_path_factory):
    """The page, a card, two slots compared, and a text of one's own."""
    from tiny import make

    folder = tmp_path_factory.mktemp("pages")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(PAGE.parents[1])
        compare.main("decoder", "encoder", "--out", str(folder / "compare.html"))
        seen = look.looked(make("gpt2", scale=4.0), "decoder", " the cat sees the dog and the cat")
    seen.save(folder / "look.html")
    own = [(folder / name).as_uri() for name in ("compare.html", "look.html")]
    return dict(
        zip(["page", "card", "compare", "look"], [PAGE.as_uri(), f"{PAGE.as_uri()}#decoder/L5H1", *own], strict=True)
    )


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [400, 1400])
@pytest.mark.parametrize("name", ["page", "card", "compare", "look"])
def test_no_page_has_a_violation_that_axe_knows(browser, addresses, name, width, scheme):
    found = find_spec("axe_playwright_python")
    if found is None:
        pytest.skip("axe-playwright-python is not installed: axe comes with it")
    rules = (Path(found.origin).parent / "axe.min.js").read_text(encoding="utf-8")
    with opened_at(browser, width, addresses[name], color_scheme=scheme, bypass_csp=True) as page:
        page.wait_for_load_state()
        page.wait_for_timeout(500)  # figures in sight are drawn
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        page.evaluate(rules)
        wanted = "{ runOnly: ['wcag2a', 'wcag2aa', 'best-practice'] }"
        asked = f"axe.run(document, {wanted}).then(done => done.violations.map(of => [of.id, of.nodes[0].html]))"
        assert page.evaluate(asked) == []
