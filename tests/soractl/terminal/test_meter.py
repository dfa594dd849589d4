from soractl.terminal.meter import BYTES, CLIPS, Meter, Reading


def test_a_reading_shows_what_is_known():
    assert Reading(CLIPS, 0, 5000).one_line() == "0 of 5000 clips"
    assert Reading(CLIPS, 1200, 5000, 88.0, failed=3).one_line() == (
        "1200 of 5000 clips  3 failed  88 clips/s  43 s left"
    )
    assert Reading(BYTES, 12 * 10**8, 4 * 10**9, 103e6, what="epoch0 (2 of 5)").one_line() == (
        "epoch0 (2 of 5)  1.2 GB of 4.0 GB  103 MB/s  27 s left"
    )


def test_a_meter_counts_from_where_it_began():
    now = 100.0
    shown = []
    meter = Meter(CLIPS, 100, shown.append, done=40, failed=1, clock=lambda: now)
    now = 110.0
    meter.advance(20, failed=2)
    assert shown == [Reading(CLIPS, 60, 100, per_s=2.0, failed=3)]
    assert shown[0].left_s == 20
    meter.advance(20, more="81 Mpixel/s")
    assert shown[1].one_line() == "80 of 100 clips  3 failed  4 clips/s  81 Mpixel/s  5 s left"
