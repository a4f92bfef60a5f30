# For Colab, Kaggle and the like: fetch the project and go to its notebooks. Elsewhere: nothing.
import importlib.util
import os
import re
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from urllib import parse, request


def set_up(folder):
    """Clone UBN_REPOSITORY, or the place that Colab has this notebook from, and install it."""
    address, revision = os.environ.get("UBN_REPOSITORY"), "HEAD"
    if not address:
        with suppress(KeyError, OSError):  # this is no Colab, or it says nothing
            colab = "http://{COLAB_JUPYTER_IP}:{KMP_TARGET_PORT}/api/sessions".format(**os.environ)
            opened = parse.unquote(request.urlopen(colab, timeout=10).read().decode())
            found = re.search(r"(https://github.com/[^/]+/[^/]+)/blob/(.+)/notebooks/", opened)
            address, revision = found.groups() if found else (None, None)
    if not address:
        raise SystemExit(
            "Run %env UBN_REPOSITORY=ADDRESS, the project's address for git, then this cell again."
        )
    print(f"Fetching {address} and installing what it needs: a minute or two, once.")
    clone = ["git", "clone", "--quiet", address, str(folder)]
    checkout = ["git", "-C", str(folder), "checkout", "--quiet", revision]
    pip = [sys.executable, "-m", "pip", "install", "-q", "-e", folder, "-e", folder / "experiments"]
    for command in ([] if folder.exists() else [clone]) + [checkout, pip]:
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"{' '.join(map(str, command))} failed:\n{done.stderr.strip()}")
    sys.path[:0] = [str(folder), str(folder / "data_scripts")]  # until a restart: then pip's


folder = Path("ubn-companion").absolute()
if importlib.util.find_spec("experiments") is None:
    set_up(folder)
if (folder / "notebooks").is_dir():
    os.chdir(folder / "notebooks")
