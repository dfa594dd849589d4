from soractl.estimate import rehearsals
from tests.soractl.estimate.measuring import config, rehearsal


def test_a_rehearsal_is_read_as_it_was_written(tmp_path):
    written = rehearsal(config())
    rehearsals.write(tmp_path, written)
    assert rehearsals.read(tmp_path, "stage1").buckets == written.buckets
    assert rehearsals.read(tmp_path, "stage2") is None


def test_a_damaged_rehearsal_is_none(tmp_path):
    file = rehearsals.file_of(tmp_path, "stage1")
    file.parent.mkdir()
    file.write_text("{")
    assert rehearsals.read(tmp_path, "stage1") is None
