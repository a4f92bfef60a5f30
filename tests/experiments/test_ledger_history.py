"""No margin of the ledger changes without a word, told from the history of a repository."""

import subprocess

import pytest

from ledger_history import NoHistory, revisions, unexplained
from small_project import ROOT

FIRST = """\
- id: a
  claim: as it was
  margin: 0.02
  seeds: 5
- id: b
  statistic: mean
  threshold: 0.5
"""


class Repository:
    """A repository with one ledger, each revision of which is committed."""

    def __init__(self, folder):
        self.folder, self.ledger = folder, folder / "claims.yaml"
        self.git("init", "--quiet")
        self.commit(FIRST)

    def git(self, *arguments):
        identity = ["-c", "user.name=A", "-c", "user.email=a@b.c", "-c", "commit.gpgsign=false"]
        command = ["git", "-C", str(self.folder), *identity, *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout

    def commit(self, text):
        self.ledger.write_text(text)
        self.git("add", ".")
        self.git("commit", "--quiet", "--message", "ledger")

    def change(self, old, new):
        assert old in self.ledger.read_text()
        self.commit(self.ledger.read_text().replace(old, new))


@pytest.fixture
def repository(tmp_path):
    return Repository(tmp_path)


def test_a_ledger_that_never_changed(repository):
    assert unexplained(repository.ledger) == []
    assert [len(entries) for _, entries in revisions(repository.ledger)] == [2]


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("margin: 0.02", "margin: 0.01", "a: margin was 0.02 and is 0.01"),
        ("seeds: 5", "seeds: 3", "a: seeds was 5 and is 3"),
        ("  seeds: 5\n", "", "a: seeds was 5 and is 1"),
        ("threshold: 0.5", "threshold: 0.4", "b: threshold was 0.5 and is 0.4"),
        ("  threshold: 0.5\n", "  threshold: 0.5\n  direction: smaller\n",
         "b: direction was 'greater' and is 'smaller'"),
        ("statistic: mean", "statistic: largest", "b: statistic was 'mean' and is 'largest'"),
        ("  statistic: mean\n", "  statistic: mean\n  profile: quick\n",
         "b: profile was 'standard' and is 'quick'"),
    ],
)  # fmt: skip
def test_a_changed_number_must_be_explained(repository, old, new, told):
    repository.change(old, new)
    (complaint,) = unexplained(repository.ledger)
    assert complaint.startswith(told) and "changed:" in complaint
    explained = f"- id: {told[0]}\n  changed: the unit was wrong\n"
    repository.change(f"- id: {told[0]}\n", explained)
    assert unexplained(repository.ledger) == []


def test_a_change_counts_before_it_is_committed_and_long_after(repository):
    changed = FIRST.replace("0.02", "0.01")
    repository.ledger.write_text(changed)
    assert len(unexplained(repository.ledger)) == 1
    repository.commit(changed)
    repository.change("as it was", "in other words")
    repository.git("mv", "claims.yaml", "ledger.yaml")
    repository.git("commit", "--quiet", "--message", "rename")
    (complaint,) = unexplained(repository.folder / "ledger.yaml")
    assert complaint.startswith("a: margin was 0.02 and is 0.01")


def test_there_and_back_again(repository):
    """What was changed and put back differs from the revision between."""
    repository.change("0.02", "0.01")
    repository.change("0.01", "0.02")
    (complaint,) = unexplained(repository.ledger)
    assert complaint.startswith("a: margin was 0.01 and is 0.02")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("as it was", "in other words"),
        ("- id: b", "- id: c\n  margin: 7\n- id: b"),  # a new claim
        ("- id: b", "- id: c"),  # renamed
        ("- id: b\n  statistic: mean\n  threshold: 0.5\n", ""),  # taken away
        ("margin: 0.02", "margin: 0.020"),
        ("seeds: 5", "seeds: 5\n  direction: greater"),  # the default, written out
    ],
)
def test_other_changes_need_no_reason(repository, old, new):
    repository.change(old, new)
    assert unexplained(repository.ledger) == []


def test_without_history_there_is_nothing_to_compare(repository, tmp_path_factory, monkeypatch):
    alone = tmp_path_factory.mktemp("alone") / "claims.yaml"
    alone.write_text(FIRST)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(alone.parent.parent))
    with pytest.raises(NoHistory, match="not a git repository"):
        unexplained(alone)
    new = repository.folder / "new.yaml"
    new.write_text(FIRST)
    with pytest.raises(NoHistory, match="never committed"):
        unexplained(new)
    repository.change("as it was", "in other words")
    shallow = tmp_path_factory.mktemp("shallow") / "copy"
    url = repository.folder.as_uri()
    subprocess.run(["git", "clone", "--quiet", "--depth", "1", url, str(shallow)], check=True)
    with pytest.raises(NoHistory, match="shallow"):
        unexplained(shallow / "claims.yaml")


def test_the_projects_ledger_explains_every_change():
    try:
        complaints = unexplained(ROOT / "claims.yaml")
    except NoHistory as reason:
        pytest.skip(f"the ledger's history is needed: {reason}")
    assert complaints == []
