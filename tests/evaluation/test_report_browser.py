"""A report in a real browser, opened from disk."""

import json
import shutil
import time

import pytest
from fake_runs import fake_run, fake_seeds
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By

import pgjax

BROWSER, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(
    not (BROWSER and DRIVER), reason="needs a browser: apt-get install chromium chromium-driver"
)
MEANS = [3.0, 8.0, 9.0, 7.0, 5.0]
LONG = "<script>document.title = 'run'</script><b>\"'&amp;" + "x" * 10_000
WIDTHS = 360, 1280


@pytest.fixture(scope="module")
def browser():
    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options, Service(DRIVER))
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def reports(tmp_path_factory):
    """Reports of two groups, of a run alone, and of a run with hostile names."""
    path = tmp_path_factory.mktemp("reports")
    rows = [[(10, x), (30, 2 * x)] for x in MEANS]
    metrics = {"grad_norm": 0.5, "min_return": 0.0, "max_return": 30.0}
    high = fake_seeds(path / "high", rows, MEANS, learning_rate=0.5, metrics=metrics)
    low = fake_seeds(path / "low", [[(10, 1.0), (40, 2.0)]] * 5, MEANS[::-1], metrics=metrics)
    one = fake_run(path / "one", rows[0], 4.0, metrics=metrics)
    facts = {"machine": {LONG: LONG}, "diverged": LONG}
    hostile = fake_run(
        path / LONG.replace("/", "")[:200],
        rows[0],
        4.0,
        env_id="<i>CartPole</i>" + "y" * 5_000,
        env_kwargs={"name": LONG},
        manifest={"machine": {LONG: LONG}, "params_sha256": LONG},
        metrics={LONG: 1.0},
    )
    ended = fake_run(
        path / "ended",
        rows[0],
        4.0,
        env_id="<i>CartPole</i>" + "y" * 5_000,
        env_kwargs={"name": LONG[::-1]},
        manifest=facts,
    )
    return {
        "groups": pgjax.report([high, low], path / "groups.html"),
        "one": pgjax.report(one),
        "hostile": pgjax.report(hostile, path / "hostile.html"),
        "hostile groups": pgjax.report([hostile, ended], path / "hostile-groups.html"),
    }


def opened(browser, path, width):
    """Open a page in a window of a width, as a phone's if it is narrow."""
    browser.get("about:blank")
    browser.get_log("browser"), browser.get_log("performance")
    size = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    browser.get(path.as_uri())


def requests(browser):
    events = (json.loads(entry["message"])["message"] for entry in browser.get_log("performance"))
    sent = [x["params"] for x in events if x["method"] == "Network.requestWillBeSent"]
    return [of["request"]["url"] for of in sent]


def visible_lines(browser, chart):
    return browser.execute_script(
        "return document.querySelectorAll('.chart')[arguments[0]]"
        ".querySelectorAll('.scatterlayer .trace').length",
        chart,
    )


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", ["groups", "one", "hostile", "hostile groups"])
def test_it_opens_without_an_error_or_a_request_and_fits(browser, reports, name, width):
    opened(browser, reports[name], width)
    assert browser.get_log("browser") == []
    asked = [url for url in requests(browser) if not url.startswith("data:")]
    assert asked == [reports[name].as_uri()]
    assert len(browser.find_elements(By.CSS_SELECTOR, ".chart .main-svg")) > 0
    script = "return document.documentElement.scrollWidth"
    assert browser.execute_script(script) <= width
    # Nothing sticks out of the page, except in a part that scrolls itself.
    outside = """return [...document.querySelectorAll('body *')].filter((of) =>
        !of.closest('.wide, .chart') && of.getBoundingClientRect().right > innerWidth + 1).length"""
    assert browser.execute_script(outside) == 0
    title = browser.title
    assert title != "run"
    assert not browser.find_elements(By.CSS_SELECTOR, ".text b, i")


def test_a_curve_is_switched_off_and_on_in_the_legend(browser, reports):
    opened(browser, reports["groups"], 1280)
    returns, evaluation, grad_norm = 0, 1, 2
    assert [visible_lines(browser, i) for i in (returns, evaluation, grad_norm)] == [3, 4, 2]
    first, _ = browser.find_elements(By.CSS_SELECTOR, "#groups input")
    first.click()
    assert [visible_lines(browser, i) for i in (returns, evaluation, grad_norm)] == [1, 2, 1]
    first.click()
    assert visible_lines(browser, returns) == 3
    assert browser.get_log("browser") == []


@pytest.mark.parametrize("width", WIDTHS)
def test_the_table_can_be_read(browser, reports, width):
    opened(browser, reports["groups"], width)
    rows = browser.find_elements(By.CSS_SELECTOR, "#evaluation tbody tr")
    cells = [
        [cell.text for cell in row.find_elements(By.CSS_SELECTOR, "th, td") if cell.is_displayed()]
        for row in rows
    ]
    # Equal evaluations: neither group is better.
    assert cells[0][:3] == ["1 learning_rate 0.5", "5", "6.667"]
    assert cells[1][0] == "2 learning_rate 0.02"
    assert cells[1][-1].startswith("0.50 (")
    header = browser.find_element(By.CSS_SELECTOR, "#evaluation thead")
    assert header.is_displayed() == (width > 600)
    size = "return getComputedStyle(document.querySelector('#evaluation td')).fontSize"
    assert float(browser.execute_script(size).removesuffix("px")) >= 14


def test_hostile_text_is_shown_in_full(browser, reports):
    opened(browser, reports["hostile groups"], 360)
    name = browser.find_element(By.CSS_SELECTOR, "#groups .text")
    assert json.dumps(LONG)[1:-1].replace("\\", "") in name.text.replace("\\", "")
    assert name.size["height"] < 200
    assert browser.find_element(By.TAG_NAME, "h1").text == "<i>CartPole</i>" + "y" * 5_000


def test_everything_is_printed(browser, reports):
    opened(browser, reports["groups"], 1280)
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    wait_until(lambda: widest_chart(browser) <= 680)
    folded = "return document.querySelectorAll('details:not([open])').length"
    assert browser.execute_script(folded) == 0
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})
    wait_until(lambda: widest_chart(browser) > 800)
    assert browser.execute_script(folded) > 0


def widest_chart(browser):
    script = """return Math.max(...[...document.querySelectorAll('.chart .main-svg')].map(
        (of) => of.getBoundingClientRect().width))"""
    return browser.execute_script(script)


def wait_until(holds):
    end = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.05)
