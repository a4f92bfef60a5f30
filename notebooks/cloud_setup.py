# For Colab, Kaggle and the like: fetch the project and go to its notebooks. Elsewhere: nothing.
import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote
from urllib.request import urlopen


def set_up(folder):
    """Clone UBN_REPOSITORY, or the place that Colab has this notebook from, and install it."""
    address, revision = os.environ.get("UBN_REPOSITORY"), "HEAD"
    if not address and "COLAB_JUPYTER_IP" in os.environ:
        colab = "http://{COLAB_JUPYTER_IP}:{KMP_TARGET_PORT}/api/sessions".format(**os.environ)
        opened = unquote(urlopen(colab, timeout=10).read().decode())
        if on_github := re.search(r"(https://github.com/[^/]+/[^/]+)/blob/(.+)/notebooks/", opened):
            address, revision = on_github.groups()
    if not address:
        raise SystemExit(
            "ubnlib is not installed, and where the project can be fetched is not known: run "
            "%env UBN_REPOSITORY=ADDRESS, with an address for git clone, and then this cell again."
        )
    print(f"Fetching {address} and installing what it needs: a minute or two, once.")
    clone = ["git", "clone", "--quiet", address, str(folder)]
    checkout = ["git", "-C", str(folder), "checkout", "--quiet", revision]
    install = [sys.executable, "-m", "pip", "install", "--quiet", "-e", f"{folder}[companion]"]
    for command in ([] if folder.exists() else [clone]) + [checkout, install]:
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr.strip()}")
    sys.path.insert(0, str(folder))  # until a restart, from which on pip's entry does it


folder = Path("ubn-companion").absolute()
if importlib.util.find_spec("ubnlib") is None:
    set_up(folder)
if (folder / "notebooks").is_dir():
    os.chdir(folder / "notebooks")
