"""What a record says of where its numbers are from."""

from experiments.common import provenance


def test_it_names_versions_and_hardware():
    made = provenance.provenance()
    assert made.threads == 1 and made.cpu and made.when.tzinfo
    assert set(made.versions) == {"ubnlib", "python", "torch", "numpy"}
    assert len(made.revision) == 40 and made.clean in (True, False)


def test_outside_a_repository_there_is_no_revision(tmp_path, monkeypatch):
    monkeypatch.setattr(provenance, "ROOT", tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert provenance._revision() == (None, None)
    monkeypatch.setenv("PATH", "")  # no git at all
    assert provenance._revision() == (None, None)
