from soractl.sync.rsync import bytes_so_far


def test_rsyncs_progress_is_read_from_any_piece_of_it():
    told = (
        b"\r         32,768   0%    0.00kB/s    0:00:00  \r      65536   1%  1.25MB/s    0:00:02  "
    )
    assert bytes_so_far(told) == 65536
    assert bytes_so_far(b" (xfr#1, to-chk=0/3)\n") is None
