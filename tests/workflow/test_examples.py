"""The page on using UBN runs, it quotes the scripts, and these print what it shows."""

import ast
import re
import runpy
import sys
from pathlib import Path

import pytest
import torch

from run_example import ROOT, lines_of, run

PAGE = (ROOT / "docs" / "using_ubn.md").read_text()
EXAMPLES = {path.name: path.read_text() for path in (ROOT / "examples").glob("*.py")}
# (language, what else the first line says, code)
BLOCKS = re.findall(r"^```(\w+)[ ]*(.*)\n((?:.*\n)*?)```$", PAGE, re.MULTILINE)
NUMBER = re.compile(r"[+-]?\d+(?:\.\d+)?(?:e[+-]?\d+)?")


def shown(command):
    """Return the output that the page shows for a command."""
    (block,) = (text for kind, said, text in BLOCKS if kind == "text" and said == command)
    return block.splitlines()


def words(lines):
    """Return lines without their numbers, which differ between machines."""
    return [NUMBER.sub("#", line) for line in lines]


# --- the page -----------------------------------------------------------------------------------


def test_every_block_says_what_it_is():
    assert PAGE.count("```") == 2 * len(BLOCKS)
    assert {kind for kind, *_ in BLOCKS} == {"python", "text"}
    assert len(BLOCKS) > 18


def test_quotations_are_the_scripts():
    quotations = [(said, code) for kind, said, code in BLOCKS if kind == "python" and said]
    assert all(f"](../examples/{name})" in PAGE for name in EXAMPLES)
    for script, code in quotations:
        assert code in EXAMPLES[Path(script).name], f"{script} does not say:\n{code}"


def test_blocks_of_the_page_run_in_order(capsys):
    torch.manual_seed(0)
    torch._dynamo.reset()  # torch counts the graphs of a whole process against its limit
    namespace = {"__name__": "page"}
    for kind, said, code in BLOCKS:
        if kind == "python" and not said:
            exec(compile(code, "docs/using_ubn.md", "exec"), namespace)
    printed = capsys.readouterr().out
    assert "UnsupervisedBatchNorm2d(8, eps=1e-05, momentum=0.05" in printed
    assert "stats_grad='labeled'" in printed
    assert re.search(r"^gap \d+\.\d{3}$", printed, re.MULTILINE)
    norm = namespace["model"][1]
    assert norm.stats_grad == "corrected"
    assert torch.isfinite(norm.running_var).all()
    assert namespace["logits"].shape == (4, 2)  # of the few labeled rows
    assert namespace["guess"].shape == (12, 2) and not namespace["guess"].requires_grad


def test_errors_on_the_page_are_those_of_the_library():
    messages = " ".join(
        node.value
        for path in (ROOT / "ubnlib").glob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    )
    table = PAGE.partition("## Errors you may meet")[2]
    quoted = re.findall(r"^\| `(.*?)` \|", table, re.MULTILINE)
    assert len(quoted) > 8
    for message in quoted:
        assert message in messages, f"no error says: {message}"


# --- the scripts --------------------------------------------------------------------------------


def test_classifier_prints_both_accuracies_and_what_they_show(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["classifier.py"])
    runpy.run_path(str(ROOT / "examples" / "classifier.py"), run_name="__main__")
    lines = capsys.readouterr().out.splitlines()
    expected = shown("python examples/classifier.py")
    assert words(lines[:-1]) == words(expected[:-1])
    rows = {name: list(map(float, numbers)) for name, *numbers in map(str.split, lines[3:5])}
    for mean, std, low, high in rows.values():
        assert low < mean < high
        assert 0 < std < high - low
        assert mean > 0.8  # 10 classes: both have learned something
    difference, error = map(float, re.findall(r"[+-]?\d\.\d+", lines[-1]))
    assert difference == pytest.approx(rows["UBN"][0] - rows["BN"][0], abs=0.0015)
    if abs(difference) < 2 * error - 0.002:
        assert lines[-1].endswith("no difference that these seeds can show.")
    if abs(difference) > 2 * error + 0.002:
        helps = "UBN helps" if difference > 0 else "UBN does not help"
        assert helps in lines[-1]


def test_torchvision_model_is_converted_trained_and_reverted():
    lines = lines_of(run("examples/convert_torchvision.py"))
    assert words(lines) == words(shown("python examples/convert_torchvision.py"))
    assert lines[0].startswith("20 layers converted")
    assert "moved 62 of 62 parameters" in lines[2]
    assert all(float(line.split()[-1]) == 0 for line in lines[3:])


@pytest.mark.parametrize(
    "script, package",
    [
        ("convert_torchvision.py", "torchvision"),
        ("train_lightning.py", "lightning"),
        ("train_accelerate.py", "accelerate"),
    ],
)
def test_without_the_package_it_needs_a_script_says_so(script, package, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.syspath_prepend(ROOT / "examples")
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(ROOT / "examples" / script), run_name="__main__")
    said = end.value.code  # Python prints it and ends with code 1
    assert said.startswith(f"This example needs {package}")


def test_the_endless_side_follows_its_seed_and_no_other(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "examples")
    classifier = runpy.run_path(str(ROOT / "examples" / "classifier.py"))
    shuffled, endless = classifier["shuffled"], classifier["endless"]
    rows = torch.utils.data.TensorDataset(torch.arange(10), torch.zeros(10))

    def seven_batches(seed):
        side = endless(shuffled(rows, 3, seed))
        return [next(side).tolist() for _ in range(7)]

    torch.manual_seed(5)
    first = seven_batches(0)
    torch.manual_seed(6)
    assert seven_batches(0) == first != seven_batches(1)
    passes = [[row for batch in first[i : i + 3] for row in batch] for i in (0, 3)]
    assert all(len(set(one)) == 9 for one in passes)  # whole batches: one row of ten is left out
    assert passes[0] != passes[1]
