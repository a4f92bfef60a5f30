"""What a record says of where its numbers are from."""

from experiments.common import provenance


def test_outside_a_repository_there_is_no_revision(tmp_path, monkeypatch):
    monkeypatch.setattr(provenance, "ROOT", tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    revision = provenance._revision.__wrapped__
    assert revision() == (None, None)
    monkeypatch.setenv("PATH", "")  # no git at all
    assert revision() == (None, None)
