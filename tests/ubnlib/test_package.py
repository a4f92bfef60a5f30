"""What importing the library needs and gives."""

import subprocess
import sys

COMPANION = ["scipy", "pandas", "matplotlib", "PIL", "pydantic", "yaml", "tqdm", "snakemake"]


def python(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)


def test_the_layer_and_the_net_need_torch_and_numpy_only():
    blocked = ";".join(f"sys.modules[{name!r}] = None" for name in COMPANION)
    names = "UnsupervisedBatchNorm2d, convert_ubn, ubn_forward, DispNet"
    done = python(f"import sys; {blocked}; from ubnlib import {names}; import ubnlib.metrics")
    assert done.returncode == 0, done.stderr


def test_public_names_are_there():
    import ubnlib

    expected = {
        "UnsupervisedBatchNorm1d", "UnsupervisedBatchNorm2d", "UnsupervisedBatchNorm3d",
        "convert_ubn", "revert_ubn", "ubn_forward", "collecting", "using", "statistics_gap",
        "refresh_statistics", "monte_carlo_predictions", "DispNet",
    }  # fmt: skip
    assert set(ubnlib.__all__) == expected
    assert all(getattr(ubnlib, name).__doc__ for name in expected)
