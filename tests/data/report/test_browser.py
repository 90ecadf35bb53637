"""The HTML report as people see it: in headless Chromium, in light and dark, wide and narrow."""

import json
import re
import shutil

import numpy as np
import pytest
from selenium import webdriver
from selenium.common.exceptions import WebDriverException
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.select import Select

from data.report.html import write_report
from data.report.summary import summarize_dataset
from data.signals.dataset import SignalDataset
from data.signals.rollouts import RolloutDataset
from data.tokens.token_text import TokenText

pytestmark = [pytest.mark.slow, pytest.mark.chromium]


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    options = webdriver.ChromeOptions()
    options.binary_location = str(shutil.which("chromium"))
    switches = "headless no-sandbox disable-gpu disable-quic no-first-run disable-background-networking " \
               "disable-component-update disable-sync disable-dev-shm-usage"  # fmt: skip
    for switch in switches.split():
        options.add_argument(f"--{switch}")
    options.add_argument(f"--user-data-dir={tmp_path_factory.mktemp('profile')}")
    options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
    service = webdriver.ChromeService(shutil.which("chromedriver"))
    try:
        driver = webdriver.Chrome(options=options, service=service)
    except WebDriverException as error:
        pytest.skip(f"chromium does not start here: {str(error).splitlines()[0]}")
    yield driver
    driver.quit()


@pytest.fixture
def page(browser, tmp_path, readable_dataset):
    """Opens the report of the small dataset; in light or dark and of a given width, CSS pixels."""
    if not (tmp_path / "report.html").exists():
        write_report(readable_dataset, tmp_path / "report.html")

    def open_page(scheme="light", width=1280):
        browser.execute_cdp_cmd(
            "Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
        )
        browser.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride",
            {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False},
        )
        browser.get_log("performance")
        browser.get_log("browser")
        browser.get((tmp_path / "report.html").as_uri())
        return browser

    return open_page


def luminance(color):
    """Relative luminance of an opaque CSS colour, as WCAG 2 defines it."""
    channels = [int(value) / 255 for value in re.findall(r"\d+", color)[:3]]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return float(np.dot([0.2126, 0.7152, 0.0722], linear))


def contrast(one, other):
    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def over(color, ground):
    """A translucent CSS colour blended with an opaque one."""
    parts = [float(value) for value in re.findall(r"[\d.]+", color)]
    alpha = parts[3] if len(parts) > 3 else 1.0
    below = [float(value) for value in re.findall(r"[\d.]+", ground)[:3]]
    mixed = [round(alpha * a + (1 - alpha) * b) for a, b in zip(parts[:3], below, strict=True)]
    return f"rgb({', '.join(map(str, mixed))})"


def style(element, name):
    return element.value_of_css_property(name)


def tokens(driver, panel):
    return driver.find_elements(
        By.CSS_SELECTOR, f"#conversation .columns .panel:nth-child({panel}) .tokens span"
    )


def test_opening_it_asks_for_nothing_but_the_file(page):
    driver = page()
    messages = [json.loads(entry["message"])["message"] for entry in driver.get_log("performance")]
    sent = [message["params"]["request"]["url"] for message in messages
            if message["method"] == "Network.requestWillBeSent"]  # fmt: skip
    assert sent == [driver.current_url]
    assert driver.get_log("browser") == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_everything_can_be_read_in_light_and_in_dark(page, scheme):
    driver = page(scheme)
    ground = style(driver.find_element(By.TAG_NAME, "body"), "background-color")
    assert (luminance(ground) > 0.5) == (scheme == "light")
    panel = style(driver.find_element(By.CLASS_NAME, "panel"), "background-color")
    # WCAG 2 asks for 4.5 between text and ground.
    for selector in (
        "h1",
        "h3",
        ".muted",
        "td.number",
        "th",
        "#conversation h3",
        ".verdicts i",
        "#list span",
    ):
        for element in driver.find_elements(By.CSS_SELECTOR, selector):
            assert contrast(style(element, "color"), panel) >= 4.5, selector
            assert contrast(style(element, "color"), ground) >= 4.5, selector
    for token in tokens(driver, 1):
        assert contrast(style(token, "color"), over(style(token, "background-color"), panel)) >= 4.5


@pytest.mark.parametrize("width", [1280, 390])
def test_nothing_is_wider_than_the_window(page, width):
    driver = page(width=width)
    script = "const page = document.documentElement; return page.scrollWidth - page.clientWidth"
    assert driver.execute_script(script) == 0


def test_pointing_at_a_token_shows_what_the_teacher_would_have_said(page, readable_dataset):
    driver = page()
    hint = driver.find_element(By.ID, "hint")
    assert not hint.is_displayed()
    row = next(row for row in readable_dataset.pair(0) if row.role == "student")
    token = tokens(driver, 3)[0]
    ActionChains(driver).move_to_element(token).perform()
    assert hint.is_displayed()
    lines = hint.text.splitlines()
    teacher, reference = 100 * np.exp([row.teacher_token_logprobs[0], row.reference_token_logprobs[0]])
    numbers = [float(value) for value in re.findall(r"[-+]?[\d.]+(?:e-\d+)?", lines[1])]
    # Shown with one decimal, from hundredths of a nat.
    assert numbers[:2] == pytest.approx([teacher, reference], rel=0.02, abs=0.06)
    assert numbers[2] == pytest.approx(np.log(teacher / reference), abs=0.011)
    assert len(lines) == 3 + 4
    shares = [float(re.search(r"([\d.]+)% [-+]?[\d.]+$", line)[1]) for line in lines[3:]]
    assert shares == pytest.approx((100 * np.exp(row.teacher_logprobs[:4])).tolist(), rel=0.02, abs=0.06)
    place, size = hint.rect, driver.execute_script("return [innerWidth, innerHeight + scrollY]")
    assert place["x"] >= 0
    assert place["x"] + place["width"] <= size[0]
    assert place["y"] + place["height"] <= size[1]
    ActionChains(driver).move_to_element(driver.find_element(By.ID, "search")).perform()
    assert not hint.is_displayed()


def test_tokens_are_reached_by_keyboard_too(page):
    driver = page()
    tokens(driver, 3)[-1].click()
    driver.find_element(By.TAG_NAME, "body").click()
    driver.execute_script("arguments[0].focus()", tokens(driver, 1)[0])
    hint = driver.find_element(By.ID, "hint")
    first = hint.text
    assert hint.is_displayed()
    driver.switch_to.active_element.send_keys(Keys.TAB)
    assert hint.is_displayed()
    assert hint.text != first


def test_conversations_are_drawn_when_they_are_chosen(page, readable_dataset):
    driver = page()
    previous, following = (driver.find_element(By.ID, name) for name in ("previous", "next"))

    def shown():
        return [len(tokens(driver, panel)) for panel in (1, 2, 3)]

    def expected(index):
        return [len(row.response_ids) for row in readable_dataset.pair(index)]

    assert shown() == expected(0)
    assert (previous.is_enabled(), following.is_enabled()) == (False, True)
    following.click()
    assert shown() == expected(1)
    driver.find_elements(By.CSS_SELECTOR, "#list button")[17].click()
    assert shown() == expected(17)
    assert (previous.is_enabled(), following.is_enabled()) == (True, False)
    assert driver.find_elements(By.CSS_SELECTOR, "#conversation .columns") != []
    # A response that the teacher did not score has neither colours nor hints.
    assert tokens(driver, 2)[0].get_attribute("tabindex") is None
    assert tokens(driver, 1)[0].get_attribute("tabindex") == "0"


def test_every_token_can_be_pointed_at_though_another_shows_its_character(page):
    driver = page()
    response = {"role": "chosen", "ids": [5, 6, 7], "shown": {"0": "天", "1": ""}}
    script = (
        "const panel = drawResponse(arguments[0]); box.replaceChildren(panel);"
        "return Array.from(panel.querySelectorAll('span'), (token) => token.textContent)"
    )
    assert driver.execute_script(script, response) == ["天", "·", " word7"]
    widths = [token.size["width"] for token in driver.find_elements(By.CSS_SELECTOR, "#conversation span")]
    assert min(widths) > 0


def test_a_chart_by_itself_is_no_larger_than_one_of_four(page):
    """As in a dataset without a reference."""
    driver = page()
    charts = driver.find_elements(By.CSS_SELECTOR, ".charts .panel")
    width = charts[0].size["width"]
    for chart in charts[1:]:
        driver.execute_script("arguments[0].remove()", chart)
    assert charts[0].size["width"] == pytest.approx(width, abs=1)


def listed(driver):
    """Ids of the conversations in the list, in its order."""
    facts = driver.find_elements(By.CSS_SELECTOR, "#list button span:last-child")
    return [fact.text.split(" · ")[0] for fact in facts]


def shown(driver):
    (button,) = driver.find_elements(By.CSS_SELECTOR, "#list button[aria-selected=true]")
    return button.find_element(By.CSS_SELECTOR, "span:last-child").text.split(" · ")[0]


@pytest.fixture
def scored_page(page, tmp_path, make_dataset, readable_dataset):
    """Opens the report of a dataset whose chosen and rejected responses are all scored."""
    make_dataset(tmp_path / "scored")
    shutil.copytree(readable_dataset.tokenizer_folder, tmp_path / "scored" / "tokenizer")
    dataset = SignalDataset.open(tmp_path / "scored")
    write_report(dataset, tmp_path / "report.html")
    return page(), dataset


def test_conversations_are_sorted_by_margin_disagreement_and_length(scored_page):
    driver, dataset = scored_page
    margins = summarize_dataset(dataset).margins
    order = [margins.pair_ids[i] for i in np.argsort(margins.values, kind="stable")]
    lengths = [max(len(row.response_ids) for row in dataset.pair(i)) for i in range(dataset.num_pairs)]
    by_length = [dataset.pair_ids[i] for i in np.argsort(lengths, kind="stable")]
    longest = [dataset.pair_ids[i] for i in np.argsort([-length for length in lengths], kind="stable")]
    sort = Select(driver.find_element(By.ID, "sort"))
    for name, expected in (("disagreement", order), ("margin", order[::-1]), ("shortest", by_length),
                           ("longest", longest), ("order", dataset.pair_ids)):  # fmt: skip
        sort.select_by_value(name)
        assert listed(driver) == expected, name
        assert shown(driver) == expected[0], name


def test_conversations_are_found_by_their_text(scored_page):
    driver, dataset = scored_page
    texts = TokenText(dataset.tokenizer_folder)
    said = {}
    for index in range(dataset.num_pairs):
        rows = dataset.pair(index)
        ids = [rows[0].prompt_ids, *(row.response_ids for row in rows)]
        said[rows[0].pair_id] = "\n".join("".join(texts.in_sequence(part.tolist())) for part in ids)
    word = next(
        text for text in (f"word{i}" for i in range(10, 94)) if 1 < sum(text in s for s in said.values()) < 15
    )
    search = driver.find_element(By.ID, "search")
    search.send_keys(word.upper())
    expected = [pair_id for pair_id, text in said.items() if word in text]
    assert listed(driver) == expected
    assert shown(driver) in expected
    assert driver.find_element(By.ID, "count").text == f"{len(expected)} of 15 found"
    search.send_keys(" and nothing like it")
    assert listed(driver) == []
    assert driver.find_element(By.CSS_SELECTOR, "#list .none").is_displayed()
    search.send_keys(Keys.ESCAPE)
    assert len(listed(driver)) == 15
    search.send_keys("pair-14")
    assert listed(driver) == ["pair-14"]


def test_the_keys_that_the_page_names_work(scored_page):
    driver, dataset = scored_page
    ids = dataset.pair_ids
    body = driver.find_element(By.TAG_NAME, "body")
    body.send_keys(Keys.ARROW_RIGHT, Keys.ARROW_RIGHT)
    assert shown(driver) == ids[2]
    body.send_keys(Keys.ARROW_LEFT)
    assert shown(driver) == ids[1]
    driver.find_element(By.CSS_SELECTOR, "#list button[aria-selected=true]").send_keys(Keys.ARROW_DOWN)
    assert shown(driver) == ids[2]
    # The focus goes along, and only one button of the list is on the way of the tabulator.
    driver.switch_to.active_element.send_keys(Keys.ARROW_DOWN)
    assert shown(driver) == ids[3]
    assert len(driver.find_elements(By.CSS_SELECTOR, "#list button[tabindex='0']")) == 1
    body.send_keys("/")
    assert driver.switch_to.active_element == driver.find_element(By.ID, "search")
    # Within the search they belong to the text.
    driver.switch_to.active_element.send_keys("pair", Keys.ARROW_LEFT)
    assert shown(driver) == ids[3]


def test_the_scale_says_at_which_advantage_a_token_has_full_colour(scored_page):
    driver, dataset = scored_page
    scale = summarize_dataset(dataset).colour_scale
    assert driver.find_element(By.CLASS_NAME, "scale").text.split() == [f"−{scale:g}", "nats", f"+{scale:g}"]
    full = driver.execute_script("return [shade(arguments[0]), shade(3 * arguments[0])]", scale)
    assert full[0] == full[1]
    assert driver.execute_script("return shade(arguments[0] / 2)", scale) != full[0]


@pytest.mark.parametrize("width", [1280, 390])
def test_two_datasets_beside_each_other_fit_the_window(page, tmp_path, make_dataset, readable_dataset, width):
    write_report(readable_dataset, tmp_path / "report.html", compare=readable_dataset)
    driver = page(width=width)
    script = "const page = document.documentElement; return page.scrollWidth - page.clientWidth"
    assert driver.execute_script(script) == 0
    lefts = {element.rect["x"] for element in driver.find_elements(By.CSS_SELECTOR, ".sides > div")}
    assert len(lefts) == (2 if width == 1280 else 1)


def test_rollouts_are_coloured_by_how_likely_the_student_found_them(
    page, tmp_path, make_rollouts, readable_dataset
):
    rows = make_rollouts(tmp_path / "rollouts")
    rollouts = RolloutDataset.open(tmp_path / "rollouts")
    write_report(rollouts, tmp_path / "report.html", tokenizer=readable_dataset.tokenizer_folder)
    driver = page()
    token = tokens(driver, 2)[0]
    ActionChains(driver).move_to_element(token).perform()
    hint = driver.find_element(By.ID, "hint")
    percent = 100 * np.exp(rows[1].token_logprobs[0])
    assert float(re.search(r"student ([\d.]+)%", hint.text)[1]) == pytest.approx(percent, rel=0.02, abs=0.06)
    assert hint.find_elements(By.TAG_NAME, "table") == []
    assert style(token, "background-color") != style(
        driver.find_element(By.ID, "conversation"), "background-color"
    )
