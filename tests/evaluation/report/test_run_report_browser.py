"""The page over runs as people see it: in headless Chromium, light and dark, wide and narrow, by keyboard."""

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

from evaluation.judges.contract import BOTH_ORDERS
from evaluation.judgments import AnswerFacts, Judgment, JudgmentFile
from evaluation.metrics.win_rate import compare_models
from evaluation.options import ReportOptions
from evaluation.report.page import write_run_report

pytestmark = [pytest.mark.chromium, pytest.mark.slow]

MODELS = ("student-adpa", "student-dckd", "student-sft")


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
    try:
        driver = webdriver.Chrome(options, webdriver.ChromeService(shutil.which("chromedriver")))
    except WebDriverException as error:
        pytest.skip(f"chromium does not start here: {str(error).splitlines()[0]}")
    yield driver
    driver.quit()


def write_runs(folder):
    draw = np.random.default_rng(0)
    for number, name in enumerate(MODELS):
        run = folder / name
        run.mkdir(parents=True)
        lines = [
            json.dumps(
                {"step": step, "loss": 3 / (1 + step / 20) + number + draw.normal(0, 0.1), "entropy": 2.0}
            )
            for step in range(1, 101)
        ]
        (run / "metrics.jsonl").write_text("\n".join(lines) + "\n")
        (run / "run.toml").write_text('[options]\nmethod = "adpa"\n')


def write_evaluation(folder):
    folder.mkdir(parents=True)
    facts = AnswerFacts(chars=30, cut=False, refused=False)
    draw = np.random.default_rng(1)
    pairs = [(one, other) for i, one in enumerate(MODELS) for other in MODELS[i + 1 :]]
    judgments = [
        Judgment(
            prompt_id=f"p{i}",
            instruction=f"prompt {i}",
            model=one,
            baseline=other,
            order=order,
            preference=float(np.clip(draw.normal(0.7, 0.2), 0, 1)),
            judge="function:f",
            model_answer=facts,
            baseline_answer=facts,
        )
        for one, other in pairs
        for i in range(40)
        for order in BOTH_ORDERS
    ]
    with JudgmentFile(folder / "judgments.jsonl") as file:
        file.append(judgments)
    from dataclasses import asdict

    request = {"judge": {"kind": "function", "name": "f", "details": {}}}
    comparison = asdict(compare_models(judgments))
    result = {"kind": "win-rate", "request": request, "comparison": comparison, "agreement": None}
    (folder / "result.json").write_text(json.dumps(result))
    answers = [
        {
            "prompt_id": f"p{i}",
            "model": name,
            "prompt": f"prompt {i}",
            "text": f"{name} says {i}",
            "num_tokens": 3,
        }
        | ({"tokens": [[name, 1.0], [f" says {i}", -0.5]]} if name == MODELS[0] else {})
        for i in range(3)
        for name in MODELS
    ]
    (folder / "answers.jsonl").write_text("".join(json.dumps(answer) + "\n" for answer in answers))


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    write_runs(folder / "models")
    write_evaluation(folder / "evaluation")
    write_run_report(ReportOptions(run=(str(folder),), out=str(folder / "report.html")))
    return folder / "report.html"


@pytest.fixture
def page(browser, file):
    """Opens the page; in light or dark and of a given width, CSS pixels."""

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
        browser.get(file.as_uri())
        return browser

    return open_page


def chart(driver, term):
    return driver.find_element(By.CSS_SELECTOR, f'.chart[data-term="{term}"]')


def luminance(color):
    """Relative luminance of an opaque CSS colour, as WCAG 2 defines it."""
    channels = [int(value) / 255 for value in re.findall(r"\d+", color)[:3]]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return float(np.dot([0.2126, 0.7152, 0.0722], linear))


def test_page_loads_without_errors_or_requests(page):
    driver = page()
    assert driver.get_log("browser") == []
    requests = [
        json.loads(entry["message"])["message"]["params"]["request"]["url"]
        for entry in driver.get_log("performance")
        if '"Network.requestWillBeSent"' in entry["message"]
    ]
    assert [url for url in requests if not url.startswith(("file:", "data:"))] == []


@pytest.mark.parametrize("width", [1280, 390])
def test_page_never_scrolls_sideways(page, width):
    driver = page(width=width)
    assert driver.execute_script("return document.documentElement.scrollWidth <= window.innerWidth")


def test_chart_draws_one_line_for_every_run_shown(page):
    driver = page()
    assert len(chart(driver, "loss").find_elements(By.CSS_SELECTOR, "path")) == 3
    driver.find_elements(By.CSS_SELECTOR, ".legend input")[1].click()
    assert len(chart(driver, "loss").find_elements(By.CSS_SELECTOR, "path")) == 2
    assert "student-dckd" not in chart(driver, "loss").find_element(By.CSS_SELECTOR, ".readout").text


def test_smoothing_brings_neighbours_together(page):
    driver = page()

    def roughness():
        path = chart(driver, "loss").find_elements(By.CSS_SELECTOR, "path:not(.raw)")[0].get_attribute("d")
        ys = [float(point.split(",")[1]) for point in re.split("[ML]", path)[1:]]
        return np.abs(np.diff(ys, 2)).mean()

    before = roughness()
    slider = driver.find_element(By.ID, "smoothing")
    slider.send_keys(Keys.END)
    assert roughness() < before / 3
    assert driver.find_element(By.ID, "smoothing-value").text == "99%"


def test_chart_is_read_by_keyboard(page):
    driver = page()
    svg = chart(driver, "loss").find_element(By.CSS_SELECTOR, "svg")
    driver.execute_script("arguments[0].focus()", svg)
    readout = chart(driver, "loss").find_element(By.CSS_SELECTOR, ".readout")
    svg.send_keys(Keys.HOME)
    assert readout.text.startswith("step 1")
    svg.send_keys(Keys.ARROW_RIGHT)
    assert readout.text.startswith("step 2")
    assert "student-sft" in readout.text


def test_chart_is_read_by_pointer(page):
    driver = page()
    svg = chart(driver, "loss").find_element(By.CSS_SELECTOR, "svg")
    ActionChains(driver).move_to_element(svg).perform()
    step = re.match(r"step (\d+)", chart(driver, "loss").find_element(By.CSS_SELECTOR, ".readout").text)
    # The middle of the chart is somewhere in the middle of the run.
    assert 35 < int(step[1]) < 65


def test_everything_that_acts_is_reached_by_tab(page):
    driver = page()
    seen = set()
    for _ in range(30):
        ActionChains(driver).send_keys(Keys.TAB).perform()
        seen.add(driver.execute_script("return document.activeElement.outerHTML.slice(0, 60)"))
    said = " ".join(seen)
    for wanted in (
        "Skip to",
        'type="checkbox"',
        'id="smoothing"',
        "<svg",
        "<select",
        "Next prompt",
        "<summary",
    ):
        assert wanted in said, wanted


def test_matrix_is_coloured_by_win_rate(page):
    driver = page()
    cells = driver.find_elements(By.CSS_SELECTOR, ".matrix td.cell")
    values = [(float(c.text), c.value_of_css_property("background-color")) for c in cells if c.text != "·"]
    strongest = max(values)[1], min(values)[1]
    assert strongest[0] != strongest[1]
    assert len(values) == 6


def test_answers_change_with_the_prompt_and_carry_colours(page):
    driver = page()
    section = driver.find_element(By.CSS_SELECTOR, "[data-samples]")
    panels = section.find_elements(By.CSS_SELECTOR, ".answer")
    assert [p.find_element(By.TAG_NAME, "h4").text for p in panels] == list(MODELS)
    colours = [
        s.value_of_css_property("background-color")
        for s in panels[0].find_elements(By.CSS_SELECTOR, ".tokens span")
    ]
    assert len(set(colours)) == 2
    section.find_elements(By.TAG_NAME, "button")[1].send_keys(Keys.ENTER)
    assert "says 1" in section.find_element(By.CSS_SELECTOR, ".answer .tokens").text
    Select(section.find_element(By.TAG_NAME, "select")).select_by_index(2)
    assert "says 2" in section.find_element(By.CSS_SELECTOR, ".answer .tokens").text
    assert not section.find_elements(By.TAG_NAME, "button")[1].is_enabled()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_and_lines_stand_out_from_the_ground(page, scheme):
    driver = page(scheme)
    ground = luminance(driver.find_element(By.TAG_NAME, "body").value_of_css_property("background-color"))
    colours = [driver.find_element(By.TAG_NAME, "body").value_of_css_property("color")]
    readout = chart(driver, "loss").find_elements(By.CSS_SELECTOR, ".readout span")
    colours += [span.value_of_css_property("color") for span in readout]
    for colour in colours:
        light, dark = sorted((luminance(colour), ground), reverse=True)
        assert (light + 0.05) / (dark + 0.05) >= 4.5, colour


def test_tables_are_there_without_the_script(file):
    page = file.read_text()
    body = page.split('<script type="application/json"')[0]
    assert "student-adpa" in body
    assert "same winner in both orders" in body
