"""The benchmark of the depth training, run as users run it; nothing here judges a time."""

import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from experiments.common.provenance import provenance
from experiments.depth.flops import flops_of_step

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
METHODS = ["BN", "UBN, side by side", "UBN, two passes"]
SOURCES = ["held batch", "no workers", "2 workers"]
of_linux = pytest.mark.skipif(sys.platform != "linux", reason="memory is read from Linux's /proc")
CASES = [(source, method) for source in SOURCES for method in METHODS]


@pytest.fixture(scope="module")
def modules():
    """The benchmark's own modules, which are no package."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        import measuring
        import tables
        import training
        import training_cases
        import training_tables

        yield SimpleNamespace(
            run=training,
            cases=training_cases,
            report=training_tables,
            tables=tables,
            measuring=measuring,
        )


@pytest.fixture(scope="module")
def small(modules, tmp_path_factory):
    """The GPU's setting, small and on the CPU, with its frames."""
    (setting,) = modules.run.SETTINGS["cuda"]
    assert (setting.size, setting.rows, setting.precision) == ((256, 832), 128, "bf16")
    setting = setting.model_copy(update=modules.run.TINY | dict(device="cpu"))
    return setting, modules.cases.pack_frames(setting, tmp_path_factory.mktemp("frames"))


OTHERS = """# Steps

A table.

{mark}

# Frames

Another.
"""


@pytest.fixture(scope="module")
def quick(modules, tmp_path_factory):
    """A quick run of the script: its folder, what it said, and its report."""
    out = tmp_path_factory.mktemp("quick")
    (out / "README.md").write_text(OTHERS.format(mark=modules.tables.KITTI_MARK))
    command = [sys.executable, BENCHMARKS / "training.py", "--device", "cpu", "--quick"]
    command += ["--repeats", "2", "--out", out]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert {path.name for path in out.iterdir()} == {"README.md", "training_cpu.json"}
    text = (out / "training_cpu.json").read_text()
    return out, ended.stdout, modules.report.Report.model_validate_json(text)


@pytest.mark.slow
def test_a_run_writes_its_times_and_its_part_of_the_table(quick, modules):
    out, said, report = quick
    assert report.provenance.threads == 1
    (comparison,) = report.comparisons
    assert [(m.data, m.method) for m in comparison.measurements] == CASES
    for m in comparison.measurements:
        assert len(m.milliseconds) == len(m.waiting) == 2
        assert all(0 <= w < ms for w, ms in zip(m.waiting, m.milliseconds, strict=True))
        assert m.images == (4 if m.method == "BN" else 8)
    readme = (out / "README.md").read_text()
    assert report.markdown().strip() in readme and report.markdown() in said
    before, _, rest = readme.partition(modules.tables.TRAINING_MARK)
    behind = rest.partition(modules.tables.KITTI_MARK)[2]
    others = OTHERS.format(mark=modules.tables.KITTI_MARK)
    assert before + modules.tables.KITTI_MARK + behind == others, "the parts of others stay"


@of_linux
@pytest.mark.parametrize("quick", [True, False])
def test_memory_of_every_method_is_measured_unless_it_must_be_quick(
    modules, monkeypatch, small, tmp_path, quick
):
    """A process for each would take long to start: the methods train in this one."""
    setting, data = small
    monkeypatch.setattr(modules.run, "SETTINGS", {"cpu": [setting]})
    monkeypatch.setattr(modules.run, "can_tell_memory", lambda device: True)
    monkeypatch.setattr(modules.run, "pack_frames", lambda *_: data)
    monkeypatch.setattr(modules.run, "measure", lambda *_: [])
    monkeypatch.setattr(modules.run, "peak_of_process", modules.cases.peak_memory)
    monkeypatch.setattr(modules.run, "write_report", lambda report, *_: reports.append(report))
    monkeypatch.setattr(modules.report.Comparison, "markdown", lambda *_: "")
    command = ["training.py", "--device", "cpu", "--out", str(tmp_path), *["--quick"] * quick]
    monkeypatch.setattr(sys, "argv", command)
    reports = []
    assert modules.run.main() == 0
    ((comparison,),) = [report.comparisons for report in reports]
    assert list(comparison.memory_mb) == (["BN"] if quick else METHODS)
    assert min(comparison.memory_mb.values()) > 50  # torch alone is larger


def test_the_setting_of_a_gpu_is_measured_wherever_it_is(small, modules, monkeypatch):
    setting, data = small
    monkeypatch.setattr(modules.measuring, "WARM_UP", 1)  # in bfloat16 a step takes long on a CPU
    measured = modules.run.measure(setting, data, repeats=1)
    assert [(m.data, m.method) for m in measured] == CASES
    for m in measured:
        config = modules.cases.config_of(setting, m.method, data)
        assert config.engine.precision == "bf16" and config.engine.channels_last
        assert m.flops == flops_of_step(config, setting.size)
        assert (max(m.waiting) < 0.5) if m.data == "held batch" else (min(m.waiting) > 0)


def test_sources_hand_out_the_same_frames_and_a_turn_is_a_long_runs(small, modules):
    setting, data = small
    with ExitStack() as stack:
        cases = modules.cases.make_cases(setting, data, stack)
        for (source, method), case in cases.items():
            expected = modules.cases.make_loader(
                modules.cases.config_of(setting, method, data),
                data,
                modules.cases.Ranks(0, 1, torch.device("cpu")),
                steps=8,
            )
            batches = list(expected)
            assert batches[0].labeled.images.shape == (4, 3, 32, 64)
            assert (batches[0].unlabeled is None) == (method == "BN")
            case.settle()
            case.turn()
            # Four batches that two workers read ahead, one step, and a turn of two.
            made = {"held batch": 2, "no workers": 2, "2 workers": 7}[source]
            following = batches[0 if source == "held batch" else made].labeled
            assert torch.equal(next(case.feed.source).labeled.images, following.images)
            assert case.feed.step == (3 if source == "2 workers" else 2)
            assert len(case.waited) == 1
    by_method = {method: cases["held batch", method].engine for method in METHODS}
    assert all(case.engine is by_method[method] for (_, method), case in cases.items())
    assert [engine.config.passes for engine in by_method.values()] == ["side by side"] * 2 + ["two"]
    assert {engine.step for engine in by_method.values()} == {2 + 2 + 3}


def test_waiting_is_the_time_in_the_loader(modules):
    def slow():
        while True:
            time.sleep(0.05)
            yield "batch"

    feed = modules.cases.Feed(slow())
    feed.steps = 2
    for _ in feed:
        time.sleep(0.2)  # the step is none of it
    assert feed.step == 2 and 0.1 <= feed.waited < 0.3


def report_of(modules, device="cuda", gpu="NVIDIA H200", **changes):
    """Steps of 100, 140 and 170 ms on a held batch, and a tenth more with a loader."""
    settings = modules.run.SETTINGS["cuda"][0].model_copy(update=dict(device=device, **changes))
    measurements = [
        dict(
            method=method,
            data=source,
            images=128 if method == "BN" else 256,
            flops=9.89e12,
            milliseconds=[ms * (1 if source == "held batch" else 1.1)] * 9,
            waiting=[{"held batch": 0.0, "no workers": 11.0, "2 workers": 1.1}[source]] * 9,
        )
        for source in SOURCES
        for method, ms in zip(METHODS, (100.0, 140.0, 170.0), strict=True)
    ]
    comparison = dict(setting=settings, measurements=measurements, memory_mb={"BN": 12_345.6})
    origin = provenance().model_copy(update=dict(gpu=gpu))
    return modules.report.Report(comparisons=[comparison], provenance=origin)


def cells_of(text, *source_and_method):
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines()]
    (found,) = (row[2:] for row in rows if tuple(row[:2]) == source_and_method)
    return found


def test_table_shows_rates_ratios_and_limits(modules):
    text = report_of(modules).markdown()
    assert cells_of(text, "held batch", "UBN, side by side") == [
        "140.0",
        "1.83e+03 [1.83e+03, 1.83e+03]",
        "1.40 [1.40, 1.40]",
        "1.00 [1.00, 1.00]",
        "",
        "70.6",
        "7.1%",
    ]
    cells = cells_of(text, "2 workers", "BN")
    assert cells[3:5] == ["1.10 [1.10, 1.10]", "1.00 [1.00, 1.00] %"]
    assert "- time / BN, UBN, side by side: 1.40 [1.40, 1.40], limit 1.45: **met**" in text
    assert "- time / BN, UBN, two passes: 1.70 [1.70, 1.70], limit 1.45: **missed**" in text
    assert (
        "- waiting [%], no workers, the worst: 10.00 [10.00, 10.00], limit 5.00: **missed**" in text
    )
    assert "- waiting [%], 2 workers, the worst: 1.00 [1.00, 1.00], limit 5.00: **met**" in text
    assert "- peak memory in MB: BN 12,346" in text


@pytest.mark.parametrize(
    "changes", [dict(gpu="NVIDIA H100 PCIe"), dict(precision="fp32"), dict(device="cpu")]
)
def test_share_of_an_unknown_peak_is_not_shown(modules, changes):
    text = report_of(modules, **changes).markdown()
    assert "TFLOP/s" in text and "of peak" not in text
    assert cells_of(text, "held batch", "BN")[-1] == "98.9"


def test_devices_share_the_tables(modules, tmp_path):
    gpu, cpu = report_of(modules), report_of(modules, device="cpu")
    modules.report.write_report(gpu, "cuda", tmp_path)
    modules.report.write_report(cpu, "cpu", tmp_path)
    readme = (tmp_path / "README.md").read_text()
    assert gpu.markdown() in readme and cpu.markdown() in readme + "\n"
    (tmp_path / "training_cuda.json").write_text("{}")
    with pytest.raises(ValueError, match=r"training_cuda\.json is no result of this benchmark"):
        modules.report.write_report(cpu, "cpu", tmp_path)


@pytest.mark.parametrize("option, least", [("repeats", 1), ("rows", 2), ("threads", 1)])
def test_what_cannot_be_is_refused_in_one_sentence(modules, monkeypatch, capsys, option, least):
    monkeypatch.setattr(sys, "argv", ["training.py", "--device", "cpu", f"--{option}", "0"])
    assert modules.run.main() == 1
    said = f"training: --{option} 0: it must be at least {least}.\n"
    assert capsys.readouterr().err == said


@of_linux
@pytest.mark.slow
def test_memory_is_that_of_a_process_which_trains(quick, small, modules):
    (comparison,) = quick[2].comparisons
    assert list(comparison.memory_mb) == ["BN"]
    narrow = comparison.memory_mb["BN"]
    assert narrow > 50  # torch alone is larger
    wide, data = comparison.setting.model_copy(update=dict(width=1.0)), small[1]
    with_weights = modules.cases.peak_of_process(wide, "BN", data.frames.folder)
    ranks = modules.cases.Ranks(0, 1, torch.device("cpu"))
    net = modules.cases.make_net(modules.cases.config_of(wide, "BN", data), ranks)
    weights = sum(p.numel() for p in net.parameters()) * 4 / 2**20
    # With their gradients and Adam's two moments; and nothing else that is as large.
    assert 3.9 * weights < with_weights - narrow < 6 * weights
