from tests.night.faults import FAULTS, draw, steps_during


def names(seed, count):
    return [(fault.name, number) for fault, number in draw(seed, count)]


def test_a_seed_is_a_night():
    assert names(3, 6) == names(3, 6)
    assert names(3, 6) != names(4, 6)


def test_no_fault_comes_twice_before_all_have_come():
    for seed in range(20):
        drawn = [name for name, _ in names(seed, 12)]
        assert len(set(drawn)) == 12
    assert {name for name, _ in names(1, 14)} == {fault.name for fault in FAULTS}
    assert len(names(1, 20)) == 20


def test_each_fault_comes_on_one_of_its_nodes():
    for seed in range(20):
        assert all(number in fault.on for fault, number in draw(seed, 14))


def test_steps_are_planned_for_what_lasts_while_the_run_trains():
    faults = {fault.name: fault for fault in FAULTS}
    lost, slow = faults["packets lost for 60 s"], faults["slow link"]
    assert steps_during([lost, slow, slow]) == 3 * 12 + 2 * 30
