"""The metric's folder is a Space of the Hub: whole, loaded by its id, and a page that works in a browser."""

from __future__ import annotations

import ast
import importlib.util
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest
import yaml
from browser import DESK, PHONE, chromium, complaints, open_page
from hub_client import HubClient
from hub_repos import TOKEN
from hub_server import HubServer

from hf_immunize.metrics.load import load_rir

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "hf_immunize" / "metrics" / "rir"
#: Colours that the Hub takes for the card of a Space.
COLOURS = {"red", "yellow", "green", "blue", "indigo", "purple", "pink", "gray"}


def test_it_has_all_that_a_space_needs():
    data = yaml.safe_load((FOLDER / "README.md").read_text(encoding="utf-8").split("---\n")[1])
    assert (data["sdk"], data["title"]) == ("gradio", "RIR")
    assert (FOLDER / data["app_file"]).is_file()
    assert {data["colorFrom"], data["colorTo"]} <= COLOURS
    assert {"evaluate", "metric"} <= set(data["tags"])
    # `evaluate` loads the script that has the name of the repository.
    assert (FOLDER / "rir.py").is_file()


def test_what_it_imports_is_what_it_requires():
    wanted = {line.split(">")[0].strip() for line in (FOLDER / "requirements.txt").read_text().split()}
    brought = {"datasets", "filelock", "numpy", "safetensors", "torch"}
    for script in FOLDER.glob("*.py"):
        for node in ast.walk(ast.parse(script.read_text(encoding="utf-8"))):
            if isinstance(node, (ast.Import, ast.ImportFrom)):
                names = [node.module or ""] if isinstance(node, ast.ImportFrom) else [one.name for one in node.names]
                for name in (one.split(".")[0].replace("_", "-") for one in names):
                    assert name in wanted | brought or name in sys.stdlib_module_names, name


def test_it_is_loaded_from_a_space_by_its_id(tmp_path):
    """Uploaded by the Hub's own client, and loaded by one that knows nothing of this package's folder."""
    hub = HubServer()
    writer = HubClient(hub.url, tmp_path / "writer", TOKEN)
    try:
        writer.run(
            "from huggingface_hub import HfApi\n"
            "api = HfApi()\n"
            "api.create_repo('me/rir', repo_type='space', space_sdk='gradio')\n"
            f"api.upload_folder(repo_id='me/rir', repo_type='space', folder_path={str(FOLDER)!r},"
            " ignore_patterns=['__pycache__/*'])"
        )
        names = set(hub.repos["spaces/me/rir"].files)
        assert names == {".gitattributes", "README.md", "app.py", "requirements.txt", "rir.py"}
        result, name = writer.run(
            "import evaluate\n"
            "rir = evaluate.load('me/rir')\n"
            "rows = [[2.0, 0.0], [0.0, 1.0]]\n"
            "rir.add_batch(immunized=[[4.0, 0.0], [0.0, 1.0]], initial=rows, task='harmful')\n"
            "rir.add_batch(immunized=rows, initial=rows, task='primary')\n"
            "result = [rir.compute()['rir'], rir.name]"
        )
    finally:
        writer.close()
        hub.close()
    assert (result, name) == (pytest.approx(4.0), "rir")
    assert "GET /spaces/me/rir/resolve/main/rir.py" in hub.log


# ---------------------------------------------------------------- the page in a browser


@pytest.fixture(scope="module")
def space(tmp_path_factory):
    """The address of the running page; what it prints is shown where it does not come up."""
    if importlib.util.find_spec("gradio") is None:
        pytest.skip("Gradio is missing: pip install 'hf-immunize[space]'")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folder = tmp_path_factory.mktemp("space")
    paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    given = {
        "GRADIO_SERVER_PORT": str(port),
        "GRADIO_ANALYTICS_ENABLED": "False",
        "GRADIO_TEMP_DIR": str(folder / "uploads"),
        "HF_HOME": str(folder / "home"),
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
    }
    with (folder / "log").open("w") as log:
        page = subprocess.Popen(
            [sys.executable, str(FOLDER / "app.py")], env=os.environ | given, cwd=folder, stdout=log, stderr=log
        )
    url = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + 240
        while not _answers(url):
            assert page.poll() is None, (folder / "log").read_text()
            assert time.monotonic() < deadline, (folder / "log").read_text()
            time.sleep(0.5)
        yield url
    finally:
        page.terminate()
        page.wait(timeout=30)


def _answers(url):
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return answer.status == 200
    except (urllib.error.URLError, TimeoutError):
        return False


@pytest.fixture(scope="module")
def browser():
    with chromium() as driven:
        yield driven


def waited(browser, selector, text=""):
    """The first visible element with the text, as soon as the page shows one."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        found = browser.find_elements("css selector", selector)
        for one in found:
            if text in (one.text or one.get_attribute("textContent")):
                return one
        time.sleep(0.2)
    raise AssertionError(f"No {selector} with {text!r}:\n{browser.find_element('tag name', 'body').text}")


def sent(browser, path):
    waited(browser, "button", "Compute")
    waited(browser, "input[type=file]").send_keys(str(path))
    waited(browser, "body", path.stem)
    waited(browser, "button", "Compute").click()


@pytest.mark.browser
@pytest.mark.parametrize("width", [PHONE, DESK])
def test_a_file_of_features_gives_its_figures(browser, space, tmp_path, width):
    draw = np.random.default_rng(0)
    rows = {
        "immunized": draw.normal(size=(40, 6)) * np.logspace(0, -2, 6),
        "initial": draw.normal(size=(40, 6)),
        "task": np.array(["primary", "harmful"] * 20),
    }
    np.savez(tmp_path / "drawn.npz", **rows)
    expected = load_rir(cache_dir=str(tmp_path)).compute(**rows)
    open_page(browser, space, width)
    sent(browser, tmp_path / "drawn.npz")
    row = waited(browser, "li strong", f"{expected['rir']:.4g}")
    assert row.is_displayed()
    for name in ("rir_i", "rir_ii"):
        assert waited(browser, "li strong", f"{expected[name]:.4g}").is_displayed()
    edge = browser.execute_script("return document.documentElement.scrollWidth")
    assert edge <= width
    assert [one for one in complaints(browser) if one.startswith("SEVERE")] == []


@pytest.mark.browser
def test_a_file_that_is_none_is_told(browser, space, tmp_path):
    hostile = tmp_path / "hostile.npz"
    np.savez(
        hostile, immunized=np.ones((2, 2)), initial=np.ones((2, 2)), task=np.array(["<img src=x id=run>", "primary"])
    )
    open_page(browser, space, DESK)
    sent(browser, hostile)
    assert waited(browser, ".toast-body, [data-testid='toast-body']", "<img src=x id=run>")
    assert browser.find_elements("id", "run") == []
    (tmp_path / "broken.npz").write_bytes(b"PK")
    open_page(browser, space, DESK)
    sent(browser, tmp_path / "broken.npz")
    assert waited(browser, ".toast-body, [data-testid='toast-body']", "not an .npz file of plain arrays")
