"""Fixtures that several test files share."""

import os
import shutil
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[1]
torch.set_num_threads(1)  # the tests' tensors are small; more threads only wait for each other


@pytest.fixture(scope="session")
def kitti_sample() -> Path:
    """The folder of real KITTI frames, from the environment variable KITTI_SAMPLE."""
    folder = os.environ.get("KITTI_SAMPLE")
    if not folder:
        pytest.skip("real KITTI frames are needed: set KITTI_SAMPLE to the folder of kitti_raw/")
    return Path(folder)


@pytest.fixture(scope="session")
def tiny_kitti(tmp_path_factory) -> Path:
    """Two drives of three frames, both cameras, in KITTI Raw's layout: copy it to change it."""
    from small_kitti import write_textured

    root = tmp_path_factory.mktemp("tiny_kitti")
    for drive in (1, 2):
        write_textured(root, drive=drive, frames=range(3))
    return root


@pytest.fixture(scope="session")
def tiny_packed(tiny_kitti, tmp_path_factory) -> Path:
    """The folder of its packed set at 12x36: `PackedDepth` opens it, and nobody may change it."""
    from ubnlib.kitti import KittiRaw, prepare

    folder = tmp_path_factory.mktemp("tiny_packed") / "packed"
    return prepare(KittiRaw(tiny_kitti, size=(12, 36)), folder, workers=1, progress=False).folder


@pytest.fixture(scope="session")
def standard(tmp_path_factory) -> Path:
    """A project with the committed notebooks, records and figures, and its standard report."""
    from report import make_report  # seconds of imports that other tests do not need

    root = tmp_path_factory.mktemp("project")
    (root / "results" / "standard").mkdir(parents=True)
    for name in ("notebooks", "docs", "profiles", "claims.yaml", "statements.yaml",
                 "results/standard/records", "results/standard/figures"):  # fmt: skip
        (root / name).symlink_to(ROOT / name)
    for name in ("02_toy_analysis", "03_depth_experiments"):  # as if they had been run
        target = root / "results" / "standard" / "notebooks" / f"{name}.ipynb"
        target.parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / "notebooks" / f"{name}.ipynb", target)
    results = root / "results" / "standard"
    for name, text in make_report(root / "profiles" / "standard.yaml", results, root).items():
        (results / name).write_text(text)
    return results


@pytest.fixture(scope="session")
def evidence():
    """The committed records of the standard profile, as a table."""
    from experiments.verdicts.claims import read_evidence

    table, damaged = read_evidence(ROOT / "results" / "standard" / "records")
    assert damaged == {}
    return table


@pytest.fixture(scope="session")
def judged(evidence):
    """The whole ledger, judged by them: a row for each claim."""
    from experiments.verdicts.claims import load_claims
    from experiments.verdicts.tables import judge_all

    return judge_all(load_claims(ROOT / "claims.yaml"), evidence, "standard")


@pytest.fixture(scope="session")
def browser():
    """Chromium, which playwright drives."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        pytest.skip("pages are tried in chromium, which is not on the PATH")
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with playwright.sync_playwright() as engine:
        options = ["--no-sandbox", "--disable-gpu"]
        browser = engine.chromium.launch(executable_path=chromium, args=options)
        yield browser
        browser.close()


@pytest.fixture
def tab(browser):
    """A tab that must not ask the network for anything, nor complain."""
    tab = browser.new_page(color_scheme="light", viewport={"width": 1400, "height": 900})
    wrong = []
    tab.on("console", lambda message: message.type == "error" and wrong.append(message.text))
    tab.on("pageerror", lambda error: wrong.append(str(error)))
    local = ("file:", "data:", "blob:")
    tab.on("request", lambda request: request.url.startswith(local) or wrong.append(request.url))
    yield tab
    tab.close()
    assert wrong == []
