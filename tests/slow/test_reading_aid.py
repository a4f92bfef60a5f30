"""The reading aid's sliders: the notebook's cells in a kernel, with and without a reader."""

from pathlib import Path

import nbformat
import pytest
from jupyter_client.manager import start_new_kernel

NOTEBOOK = Path(__file__).parents[2] / "notebooks" / "02_toy_analysis.ipynb"
SMALL = """
from tempfile import mkdtemp
results = mkdtemp()
steps, labeled_per_class, unlabeled_per_class, noise = 4, 6, 20, 0.0
"""
DRIVE = """
shown = aid.panel(picture_of, list(kinds_of_norm), first, steps)
sliders, message, image = shown.children
by_name = {slider.description: slider for slider in sliders.children}
pictures = [image.value]
for name, value in [("step", 0), ("step", 4), ("method", "BN"), ("labeled batch", 8)]:
    by_name[name].value = value
    pictures.append(image.value)
print([picture[:4] == b"\\x89PNG" for picture in pictures])
print([pictures.index(picture) for picture in pictures], message.outputs)
"""


@pytest.fixture(scope="module")
def kernel():
    """A kernel that has run the notebook's cells of the reading aid, with a short training."""
    notebook = nbformat.read(NOTEBOOK, as_version=4)

    def tagged(tag: str) -> list[str]:
        found = [c.source for c in notebook.cells if tag in c.metadata.get("tags", [])]
        assert found, f"02_toy_analysis.ipynb has no cell with the tag {tag}"
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JUPYTER_PREFER_ENV_PATH", "1")  # the kernel of this environment
        patch.delenv("MPLBACKEND", raising=False)
        manager, client = start_new_kernel(kernel_name="python3")
    try:
        for source in (*tagged("parameters"), SMALL, *tagged("setup"), *tagged("reading-aid")):
            outputs, error = run_cell(client, source)
            assert not error, error
        yield client, source, outputs
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)


def run_cell(client, source: str, attended: bool = False) -> tuple[list[dict], str]:
    """Run a cell as a front end does; return its outputs, and its error if there is one."""
    outputs = []
    reply = client.execute_interactive(
        source,
        allow_stdin=attended,
        stdin_hook=lambda _: None,
        output_hook=lambda message: outputs.append(message["content"]),
        timeout=600,
    )["content"]
    return outputs, "\n".join(reply.get("traceback", []))


def stdout(outputs: list[dict]) -> str:
    return "".join(output.get("text", "") for output in outputs)


def test_with_a_reader_there_are_sliders(kernel):
    client, last, _ = kernel
    outputs, error = run_cell(client, last, attended=True)
    assert not error, error
    views = [output["data"] for output in outputs if "data" in output]
    assert any("application/vnd.jupyter.widget-view+json" in view for view in views)


def test_the_picture_follows_the_sliders(kernel):
    client, _, _ = kernel
    outputs, error = run_cell(client, DRIVE)
    assert not error, error
    pictures, order = stdout(outputs).splitlines()[-2:]
    assert pictures == str([True] * 5)
    # The third is the first again; every other one is new; no error is left below the sliders.
    assert order == "[0, 1, 0, 3, 4] ()"
