import pytest

from tests.planter.campaign import MOST_AFTER, Campaign, Case, cases, is_right

DRAWN = [
    Case("stop", 1, "step", {"after": 7}),
    Case("sleep", 0, "save", {"thread": "side", "after": 1}),
    Case("gc", 1, "validation", {"within": "Validation.losses", "after": 0}),
]


@pytest.mark.slow  # one run of two ranks, in which three faults are planted one after another
def test_the_planted_rank_is_named_with_its_collective_and_number(tmp_path):
    campaign = Campaign(tmp_path)
    try:
        for case in DRAWN:
            found, truth, _ = campaign.verdict(case)
            assert is_right(case, found, truth), f"{case}: {found}, planted: {truth}"
    finally:
        campaign.stop()


def test_a_campaign_has_faults_of_all_kinds_in_all_phases_and_the_same_for_a_seed():
    drawn = cases(3, 40)
    assert drawn == cases(3, 40) != cases(4, 40)
    assert len(drawn) == 40
    assert {case.kind for case in drawn} == {
        *("sleep", "gc", "read", "stop", "thread", "spin", "gil")
    }
    phases = {case.phase for case in drawn}
    assert phases == {"start", "first step", "step", "save", "inside", "validation"}
    assert all(case.plan["after"] <= MOST_AFTER.get(case.phase, 0) for case in drawn)
