"""The cell that makes a notebook run in the cloud, in a Python that has nothing of the project.

Real: a new virtual environment, git and a repository to clone, and a server that answers as
Colab's does. Not real: pip, in whose place a module notes what it is asked for and does what an
editable installation does.
"""

import json
import os
import subprocess
import sys
import threading
import venv
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from insert_cloud_setup import cell_source

PIP = """
import site, sys
from pathlib import Path
folder = Path(site.getsitepackages()[0])
with (folder / "asked.txt").open("a") as log:
    print(*sys.argv[1:], file=log)
(folder / "ubn.pth").write_text(str(Path(sys.argv[-1]).parent))
"""
# What the notebooks do next: read a file beside their folder, and import the library.
NEXT = """
from pathlib import Path as P
import experiments, ubnlib
print("at", P.cwd(), P("../claims.yaml").read_text(), ubnlib.REVISION)
"""


def git(folder: Path, *arguments: str) -> None:
    identity = ["-c", "user.name=test", "-c", "user.email=test@localhost"]
    subprocess.run(["git", *identity, "-C", str(folder), *arguments], check=True)


@pytest.fixture(scope="module")
def repository(tmp_path_factory) -> Path:
    """A repository with the project's layout, and a branch of it."""
    folder = tmp_path_factory.mktemp("repository")
    (folder / "notebooks").mkdir()
    for package in ("ubnlib", "experiments"):
        (folder / package).mkdir()
    (folder / "experiments" / "__init__.py").touch()
    (folder / "notebooks" / "01_method.ipynb").write_text("{}")
    (folder / "claims.yaml").write_text("claims")
    git(folder, "init", "--quiet", "--initial-branch", "main")
    for branch in ("main", "other/branch"):
        if branch != "main":
            git(folder, "checkout", "--quiet", "-b", branch)
        (folder / "ubnlib" / "__init__.py").write_text(f"REVISION = {branch!r}")
        git(folder, "add", "--all")
        git(folder, "commit", "--quiet", "--message", branch)
    git(folder, "checkout", "--quiet", "main")
    return folder


@pytest.fixture
def cloud(tmp_path):
    """A machine with a bare Python; call it to run the cell there, as often as you like."""
    venv.create(tmp_path / "python", symlinks=True)
    packages = next((tmp_path / "python" / "lib").glob("python3*/site-packages"))
    (packages / "pip").mkdir()
    (packages / "pip" / "__main__.py").write_text(PIP)
    (packages / "asked.txt").touch()
    (tmp_path / "content").mkdir()

    def run(code: str, **variables: str) -> subprocess.CompletedProcess:
        clean = {
            k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "UBN", "COLAB"))
        }
        return subprocess.run(
            [str(tmp_path / "python" / "bin" / "python"), "-c", code],
            cwd=tmp_path / "content",
            env=clean | variables,
            capture_output=True,
            text=True,
        )

    run.installed = lambda: (packages / "asked.txt").read_text().splitlines()
    run.folder = tmp_path / "content" / "ubn-companion"
    return run


@pytest.fixture
def colab(repository):
    """Give the environment of a Colab that opened a notebook; what GitHub has is `repository`."""
    servers = []

    def environment(opened: str) -> dict[str, str]:
        sessions = json.dumps([{"path": f"fileId={opened}", "name": "01_method.ipynb"}])

        class Sessions(BaseHTTPRequestHandler):
            def do_GET(self):
                self.send_response(200 if self.path == "/api/sessions" else 404)
                self.end_headers()
                self.wfile.write(sessions.encode())

            def log_message(self, *_):
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Sessions)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return {
            "COLAB_JUPYTER_IP": "127.0.0.1",
            "KMP_TARGET_PORT": str(server.server_port),
            "GIT_CONFIG_COUNT": "1",
            "GIT_CONFIG_KEY_0": f"url.{repository.as_uri()}.insteadOf",
            "GIT_CONFIG_VALUE_0": "https://github.com/owner/project",
        }

    yield environment
    for server in servers:
        server.shutdown()
        server.server_close()


def on_github(branch: str) -> str:
    address = f"https://github.com/owner/project/blob/{branch}/notebooks/01_method.ipynb"
    return address.replace(":", "%3A").replace("/", "%2F")


def test_it_fetches_installs_and_goes_to_the_notebooks(cloud, repository):
    done = cloud(cell_source() + NEXT, UBN_REPOSITORY=str(repository))
    assert done.returncode == 0, done.stderr
    told, place = done.stdout.splitlines()
    assert told.startswith(f"Fetching {repository} ")
    assert place == f"at {cloud.folder / 'notebooks'} claims main"
    assert cloud.installed() == [f"install -q -e {cloud.folder} -e {cloud.folder}/experiments"]


def test_a_second_run_and_one_after_a_restart_do_nothing_more(cloud, repository):
    twice = cell_source() + "\nprint('again')\n" + cell_source() + NEXT
    first = cloud(twice, UBN_REPOSITORY=str(repository))
    assert first.stdout.splitlines()[1:] == [
        "again",
        f"at {cloud.folder / 'notebooks'} claims main",
    ]

    after = cloud(cell_source() + NEXT, UBN_REPOSITORY="/nowhere")
    assert after.stdout == f"at {cloud.folder / 'notebooks'} claims main\n"
    assert after.stderr == ""
    assert len(cloud.installed()) == 1


@pytest.mark.parametrize("branch", ["main", "other/branch"])
def test_colab_knows_the_address_and_the_branch(cloud, colab, branch):
    done = cloud(cell_source() + NEXT, **colab(on_github(branch)))
    assert done.stdout.splitlines()[1:] == [f"at {cloud.folder / 'notebooks'} claims {branch}"]


def test_the_variable_goes_before_what_colab_knows(cloud, colab, repository):
    known = colab(on_github("other/branch"))
    done = cloud(cell_source() + NEXT, UBN_REPOSITORY=str(repository), **known)
    assert done.stdout.splitlines()[1].endswith("claims main")


def test_without_an_address_one_sentence_says_what_to_do(cloud, colab):
    on_drive = colab("1ZAqQEIxR08eODSPEHvKPwbZoioVdV8L9")
    without_answer = {"COLAB_JUPYTER_IP": "127.0.0.1", "KMP_TARGET_PORT": "9"}
    for variables in ({}, on_drive, without_answer):
        done = cloud(cell_source(), **variables)
        assert done.returncode == 1
        assert done.stdout == ""
        assert done.stderr.count("\n") == 1
        assert "%env UBN_REPOSITORY=ADDRESS" in done.stderr
    assert cloud.installed() == []


def test_a_failed_command_is_shown_and_can_be_tried_again(cloud, repository):
    failed = cloud(cell_source(), UBN_REPOSITORY="/nowhere/project")
    assert failed.returncode == 1
    assert failed.stderr.startswith("git clone --quiet /nowhere/project ")
    assert "does not exist" in failed.stderr
    assert cloud.installed() == []
    assert cloud(cell_source() + NEXT, UBN_REPOSITORY=str(repository)).returncode == 0


def test_where_the_library_is_it_does_nothing(tmp_path):
    """Here, in the project's own Python."""
    code = cell_source() + "\nprint(Path.cwd())"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True
    )
    assert (done.stdout, done.stderr) == (f"{tmp_path}\n", "")
    assert list(tmp_path.iterdir()) == []
