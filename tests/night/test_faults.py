from tests.night.faults import FAULTS, LAST, draw


def names(seed, count, *, short):
    return [(fault.name, number) for fault, number in draw(seed, count, short=short)]


def test_a_seed_is_a_night():
    assert names(3, 6, short=True) == names(3, 6, short=True)
    assert names(3, 6, short=True) != names(4, 6, short=True)


def test_a_short_night_has_only_faults_that_pass_quickly():
    short = {fault.name for fault in FAULTS if fault.is_short}
    for seed in range(20):
        drawn = [name for name, _ in names(seed, 6, short=True)]
        assert set(drawn) <= short
        assert len(set(drawn)) == 6


def test_a_long_night_has_every_kind_and_loses_a_node_at_the_end():
    drawn = [name for name, _ in names(1, len(FAULTS) + 1, short=False)]
    assert sorted(drawn[:-1]) == sorted(fault.name for fault in FAULTS)
    assert drawn[-1] == LAST.name


def test_the_head_node_is_spared_since_its_loss_ends_what_the_night_measures_by():
    assert {number for seed in range(20) for _, number in names(seed, 6, short=True)} == {2, 3}
