from soractl.files.changes import last_changes


def test_a_file_that_was_removed_just_now_has_no_last_change(tmp_path):
    here, gone = tmp_path / "here", tmp_path / "gone"
    here.write_text("")
    assert last_changes([here, gone]) == [(here, here.stat().st_mtime_ns), (gone, 0)]
