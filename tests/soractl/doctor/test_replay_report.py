from soractl.doctor import replay_report
from soractl.doctor.replay import Replay, Replayed, judge

RANKS = [Replayed(f"n{i}", 0, "NVIDIA H200", "abd" if i == 2 else "abc", 0.1) for i in range(8)]


def test_the_table_shows_who_is_not_good_and_the_notes_what_to_do():
    found = Replay("nodes.txt", "cuda", judge(RANKS, "cuda"), 9.9)
    assert [row[0] for row in replay_report.lines(found).rows] == ["n2"]
    remedy, count = replay_report.notes(found)
    assert remedy.startswith("n2: it computes other numbers than its equals")
    assert count == "nodes.txt: 7 good of 8 ranks (cuda) in 9.9 s"
    assert (found.exit_code, replay_report.as_json(found)["ranks"][2]["verdict"]) == (
        1,
        "other bits",
    )
