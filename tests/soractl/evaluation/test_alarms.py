from soractl.evaluation.alarms import Alarm, find_alarms


def video(name, *, contrast=40.0, motion=3.0, level=None, prompt=None):
    """A video as a result has it; without `level` its colours are its own."""
    level = 20.0 * (ord(name) - ord("a")) if level is None else level
    measures = {"contrast": contrast, "motion": motion, "colours": [level] * 48}
    return {"name": f"{name}.mp4", "prompt": prompt or name, "measures": measures}


def test_videos_that_move_and_differ_raise_no_alarm():
    assert find_alarms([video("a"), video("b"), video("c")]) == []


def test_a_blank_video_is_not_called_frozen_too():
    found = find_alarms([video("a", contrast=0.4, motion=0.0), video("b", motion=0.01), video("c")])
    assert found == [Alarm("blank", ("a.mp4",), 3), Alarm("frozen", ("b.mp4",), 3)]
    assert [str(alarm) for alarm in found] == ["blank: 1 of 3", "frozen: 1 of 3"]


def test_a_picture_is_not_frozen():
    assert find_alarms([video("a", motion=None)]) == []


def test_videos_of_different_prompts_that_look_alike_are_collapsed():
    names = ("a.mp4", "b.mp4", "c.mp4")
    (alarm,) = find_alarms([video(name[0], level=80 + i) for i, name in enumerate(names)])
    assert alarm == Alarm("collapsed", names, 3)
    assert str(alarm) == "collapsed: 3 videos of different prompts look alike"


def test_two_prompts_or_samples_of_one_prompt_may_look_alike():
    assert find_alarms([video("a", level=80), video("b", level=80)]) == []
    same = [video(name, level=80, prompt="a cat") for name in "abcd"]
    assert find_alarms(same) == []


def test_videos_without_measures_are_passed_over():
    assert find_alarms([{"name": "a.mp4", "prompt": "a", "measures": None}]) == []
