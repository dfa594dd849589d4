import os
import pwd

from soractl.queue.shared_answers import SharedAnswers, answers_file


def test_an_answer_is_shared_for_half_a_minute(tmp_path):
    asked = []

    def ask():
        asked.append(1)
        return f"answer {len(asked)}"

    path = tmp_path / "cache" / "squeue"
    first = SharedAnswers(path, 30)
    assert first.get(ask) == "answer 1"
    at_s = path.stat().st_mtime
    assert SharedAnswers(path, 30, lambda _: at_s + 29.9).get(ask) == "answer 1"
    assert SharedAnswers(path, 30, lambda _: at_s + 30).get(ask) == "answer 2"
    os.utime(path, (at_s + 999, at_s + 999))  # the clock was set back: nothing is known
    assert SharedAnswers(path, 30, lambda _: at_s).get(ask) == "answer 3"


def test_where_nothing_can_be_kept_each_command_asks(tmp_path):
    (tmp_path / "file").write_text("")
    assert SharedAnswers(tmp_path / "file" / "squeue", 30).get(lambda: "answer") == "answer"


def test_an_account_without_a_home_asks_each_time(monkeypatch):
    monkeypatch.delenv("HOME")
    monkeypatch.setattr(pwd, "getpwuid", {}.__getitem__)  # KeyError: no such account
    assert SharedAnswers(answers_file({}), 30).get(lambda: "answer") == "answer"


def test_two_slurms_share_nothing(tmp_path):
    one = answers_file({"SLURM_CONF": "/one", "XDG_CACHE_HOME": str(tmp_path)})
    two = answers_file({"SLURM_CONF": "/two", "XDG_CACHE_HOME": str(tmp_path)})
    assert one != two
    assert one.parent == tmp_path / "soractl"


def test_an_empty_queue_is_an_answer_too(tmp_path):
    path = tmp_path / "squeue"
    assert SharedAnswers(path, 30).get(lambda: "") == ""
    assert SharedAnswers(path, 30).get(lambda: "asked again") == ""
