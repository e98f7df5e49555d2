"""The explorer, and the page for ratings, as a person meets them: headless Chromium in JupyterLab and in Voilà.

Screenshots are left in figures/browser/. Needs Chromium, playwright (only its Python package: it fetches nothing)
and, for one of the two, voila; without them the tests skip, or fail where IQA_REQUIRE_BROWSER=1.
"""

import contextlib
import importlib.util
import os
import re
import secrets
import shutil
import socket
import subprocess
import sys
import time
import urllib.request

import numpy as np
import pytest
import yaml
from PIL import Image
from ratings_by import photographs
from skimage import data

from iqa_lib import paths
from iqa_lib.profile import load_profile
from iqa_lib.rating.app import write_page
from iqa_lib.rating.records import load

pytestmark = pytest.mark.slow
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
SCREENSHOTS = paths.CHECKOUT / "figures" / "browser"
READY, PATIENCE = "text=/ready · score/", 90_000  # ms


def missing(server):
    if CHROMIUM is None:
        return "Chromium is not installed (apt install chromium)"
    for package in {"playwright", server}:
        if importlib.util.find_spec(package) is None:
            return f"the Python package {package} is not installed (pip install -e '.[dev]')"
    return None


@pytest.fixture(scope="module")
def notebook(tmp_path_factory, built_data):
    """11_explorer on the smoke profile, with a backbone that sees something; and the home it works in."""
    home = tmp_path_factory.mktemp("browser")
    shutil.copytree(built_data, home / "data")
    sees = {"backbone": "tf_efficientnet_lite0", "pretrained": True, "freeze_backbone": True, "epochs": 4}
    settings = load_profile("smoke", **sees, backbone_hyper_iqa="tf_efficientnet_lite0", precision="float32")
    profile = home / "smoke.yaml"
    profile.write_text(yaml.safe_dump(settings.model_dump(mode="json")))
    text = (paths.NOTEBOOKS / "11_explorer.ipynb").read_text(encoding="utf-8")
    path = home / "11_explorer.ipynb"
    path.write_text(text.replace('profile: str = \\"demo\\"', f'profile: str = \\"{profile}\\"'), "utf-8")
    train = [sys.executable, "-m", "iqa_lib", "train", "--profile", str(profile), "--experiment", "main"]
    subprocess.run(train, env={**os.environ, "IQA_HOME": str(home)}, check=True, capture_output=True)
    return path


@pytest.fixture(params=["jupyterlab", "voila"])
def page(request, notebook):
    """The notebook open in the browser: run, and the app ready."""
    with opened(request.param, notebook, READY) as tab:
        yield request.param, tab


@contextlib.contextmanager
def opened(kind, notebook, ready):
    """The notebook served and open in the browser, once what is ``ready`` is there; its folder is the home."""
    if reason := missing(kind):
        (pytest.fail if os.environ.get("IQA_REQUIRE_BROWSER") == "1" else pytest.skip)(reason)
    from playwright.sync_api import sync_playwright

    port, token, home = free_port(), secrets.token_hex(16), notebook.parent
    address = f"http://127.0.0.1:{port}"
    if kind == "voila":
        options = [str(notebook), "--no-browser", "--Voila.ip=127.0.0.1", f"--port={port}", f"--token={token}"]
        url = f"{address}/?token={token}"
    else:
        options = [f"--ServerApp.root_dir={home}", "--no-browser", "--ip=127.0.0.1", f"--port={port}"]
        options += ["--allow-root", f"--IdentityProvider.token={token}", "--ServerApp.port_retries=0"]
        url = f"{address}/lab/tree/{notebook.name}?token={token}"
    command = [sys.executable, "-m", kind, *options]
    environment = {**os.environ, "IQA_HOME": str(home), "JUPYTERLAB_SETTINGS_DIR": str(home / "lab")}
    quiet = home / "lab" / "@jupyterlab" / "apputils-extension" / "notification.jupyterlab-settings"
    quiet.parent.mkdir(parents=True, exist_ok=True)
    quiet.write_text('{"fetchNews": "false", "checkForUpdates": false}')
    log = home / f"{kind}.log"
    with (
        open(log, "wb") as out,
        subprocess.Popen(command, cwd=home, env=environment, stdout=out, stderr=out) as server,
        sync_playwright() as play,
    ):
        try:
            wait_for(address, log)
            browser = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
            tab = browser.new_page(viewport={"width": 1440, "height": 2000})
            tab.set_default_timeout(PATIENCE)
            tab.goto(url, wait_until="commit")  # Voilà's page is whole only when its notebook has run
            SCREENSHOTS.mkdir(parents=True, exist_ok=True)
            try:
                if kind == "jupyterlab":
                    run_all(tab)
                tab.wait_for_selector(ready)
                yield tab
            finally:
                tab.screenshot(path=SCREENSHOTS / f"{notebook.stem}-{kind}-last.png")
                browser.close()
        finally:
            server.terminate()


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def wait_for(address, log):
    """Until the server answers anything at all."""
    for _ in range(240):
        try:
            urllib.request.urlopen(f"{address}/login", timeout=5)
            return
        except urllib.error.HTTPError:
            return
        except OSError:
            time.sleep(0.5)
    pytest.fail(f"the server did not start:\n{log.read_text()[-3000:]}")


def run_all(tab):
    """Run all cells; again where the page was not yet connected to its kernel and the request was lost."""
    tab.wait_for_selector(".jp-Notebook .jp-CodeCell")
    tab.locator(".jp-StatusBar-TextItem", has_text="| Idle").first.wait_for()
    for _ in range(6):
        tab.get_by_role("menuitem", name="Run", exact=True).click()
        tab.get_by_text("Run All Cells", exact=True).click()
        for _ in range(20):
            tab.wait_for_timeout(250)
            if tab.locator(".jp-InputPrompt").filter(has_text=re.compile(r"\[[\d*]+\]")).count():
                return
    pytest.fail("JupyterLab never began to run the notebook")


def shown(tab):
    """Score, bars and overlay as the browser has them: text, SVG, and the pixels of the image."""
    score = tab.locator("text=/of 100 points/").first.inner_text()
    bars = tab.locator("svg[aria-label^='Stage weights']").first.get_attribute("aria-label")
    overlay = (
        tab.locator("img[width='440']")
        .nth(1)
        .evaluate(
            """async image => {
            await image.decode();
            const canvas = document.createElement("canvas");
            [canvas.width, canvas.height] = [image.naturalWidth, image.naturalHeight];
            canvas.getContext("2d").drawImage(image, 0, 0);
            return canvas.toDataURL();
        }"""
        )
    )
    return score, bars, overlay


def settled(tab, before):
    """What is shown once score, bars and overlay all differ from before."""
    for _ in range(PATIENCE // 250):
        tab.wait_for_timeout(250)
        now = shown(tab)
        if all(new != old for new, old in zip(now, before, strict=True)) and tab.locator(READY).count():
            return now
    pytest.fail(f"not all changed: {[new != old for new, old in zip(now, before, strict=True)]}")


def choose(tab, label, index):
    tab.get_by_label(label, exact=True).select_option(index=index)


def test_a_person_explores(page, notebook):
    where, tab = page
    assert tab.locator(".jupyter-widgets-error-widget").count() == 0
    first = shown(tab)
    tab.screenshot(path=SCREENSHOTS / f"{where}-1-opened.png")

    choose(tab, "Image", 0)
    second = settled(tab, first)

    slider = tab.locator(".noUi-handle").first  # the level: with the keyboard, then with the mouse
    slider.focus()
    for _ in range(3):
        tab.keyboard.press("ArrowRight")
    tab.wait_for_selector("text=/level 3 \\(/")
    third = settled(tab, second)
    box = slider.bounding_box()
    tab.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    tab.mouse.down()
    tab.mouse.move(box["x"] + 300, box["y"] + box["height"] / 2, steps=12)
    tab.mouse.up()
    tab.wait_for_selector("text=/level 5 \\(/")
    fourth = settled(tab, third)
    tab.get_by_role("button", name="Keep").click()
    tab.wait_for_selector("text=/Kept: 1/")
    tab.screenshot(path=SCREENSHOTS / f"{where}-2-level-5.png")

    photo = notebook.parent / "my photo.jpg"
    Image.fromarray(data.chelsea()).save(photo)
    give(tab, photo)
    tab.wait_for_selector("text=/^my photo.jpg/")
    settled(tab, fourth)
    choose(tab, "Compare", 1 if "HyperIQA" in tab.get_by_label("Compare").inner_text().split("\n")[1] else 2)
    tab.wait_for_selector("text=/has no stage weights/")
    tab.wait_for_selector(READY)
    tab.wait_for_timeout(500)
    tab.get_by_role("button", name="Keep").click()
    tab.wait_for_selector("text=/Kept: 2/")
    tab.screenshot(path=SCREENSHOTS / f"{where}-3-upload-two-models.png")

    for name in ("explorer.csv", "explorer.png"):
        with tab.expect_download() as download:
            tab.get_by_role("link", name=name).click()
        assert os.path.getsize(download.value.path()) > 100

    (notebook.parent / "text.png").write_text("no image")
    give(tab, notebook.parent / "text.png")
    tab.wait_for_selector("text=/is no image that Pillow can read/")
    assert re.search("status", tab.locator("[aria-live=polite]", has_text="Pillow").get_attribute("role"))
    choose(tab, "Image", 3)
    tab.wait_for_selector(READY)
    shot = np.asarray(Image.open(SCREENSHOTS / f"{where}-3-upload-two-models.png").convert("RGB"))
    assert shot.std() > 20  # not a blank page


def give(tab, path):
    with tab.expect_file_chooser() as chooser:
        tab.get_by_role("button", name="Upload an image").click()
    chooser.value.set_files(path)


# --- 12_rate ------------------------------------------------------------------------------------------------


def counted(tab, number):
    tab.wait_for_selector(f"text=/^{number} of 1[0-9]/")


def rate(tab, keys, before=0):
    """Press keys one after the other, each when the photograph before it is counted."""
    for number, key in enumerate(keys, before):
        counted(tab, number)
        tab.wait_for_function("document.querySelector('.iqa-rate img')?.complete")
        tab.keyboard.press(key)
    counted(tab, before + len(keys))


@pytest.mark.parametrize("server", ["voila", "jupyterlab"])
def test_a_person_rates_by_keyboard_undoes_reloads_and_goes_on(server, tmp_path):
    folder = photographs(tmp_path / "my photos", 14)
    Image.linear_gradient("L").resize((8000, 6000)).save(folder / "48 megapixels.jpg")
    (folder / "broken.jpg").write_bytes(b"no photograph")
    notebook = tmp_path / "rate.ipynb"
    write_page(str(folder), notebook)
    with opened(server, notebook, ".iqa-rate img") as tab:
        tab.get_by_label("Rater").fill("Ann")
        tab.get_by_label("Rater").press("Enter")
        counted(tab, 0)
        tab.locator(".iqa-rate").focus()
        rate(tab, "12345123")
        tab.keyboard.press("u")
        counted(tab, 7)
        tab.keyboard.press("p")  # paused: nothing is rated
        tab.wait_for_selector("text=/paused/")
        tab.keyboard.press("4")
        tab.keyboard.press("p")
        rate(tab, "5", 7)
        tab.keyboard.press("z")  # a part, pixel by pixel
        tab.wait_for_selector(".iqa-rate img.detail")
        tab.keyboard.press("2")
        counted(tab, 9)
        tab.screenshot(path=SCREENSHOTS / f"rate-{server}.png")
        if server == "voila":  # JupyterLab's cells run again by hand
            tab.reload(wait_until="commit")
            tab.wait_for_selector(".iqa-rate img")
        counted(tab, 9)
        tab.locator(".iqa-rate").focus()
        rate(tab, "345", 9)
        tab.wait_for_selector("text=/Skipped: broken.jpg is no image/")
    found = load(folder)
    assert found["value"].tolist() == [1, 2, 3, 4, 5, 1, 2, 5, 2, 3, 4, 5]
    assert set(found["rater"]) == {"Ann"} and found[~found["repeat"]]["image"].is_unique
    assert (found["seconds"] > 0).all() and found["zoom"].iloc[8] >= 1 and found["repeat"].sum() == 1
