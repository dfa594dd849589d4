from trainer.phases import Phases


def test_seconds_of_a_phase_add_up_within_a_micro_step_and_begin_anew_when_read():
    phases = Phases()
    phases.begin_micro_step()
    for name in ("data", "encode", "encode"):
        with phases.of(name):
            sum(range(10_000))
    phases.begin_micro_step()
    with phases.of("data"):
        pass
    first, second = phases.read()
    assert list(first) == ["data", "encode"]
    assert list(second) == ["data"]
    assert first["encode"] > first["data"] > second["data"] >= 0
    assert phases.read() == []


def test_what_comes_between_two_phases_belongs_to_none():
    phases = Phases()
    with phases.of("forward"):
        pass
    sum(range(100_000))
    with phases.of("forward"):
        pass
    [outside] = phases.read()
    with phases.of("forward"):
        sum(range(100_000))
    [inside] = phases.read()
    assert outside["forward"] < inside["forward"]
