from soractl.evaluation.claims import Claims
from soractl.supervise.lease import Lease


def test_one_of_two_servers_gets_the_work_and_gives_it_back(tmp_path):
    claim = tmp_path / "low4s" / "100" / ".claim"
    one, other = Claims(), Claims()
    with one.claimed(claim) as first, other.claimed(claim) as second:
        assert (first, second) == (True, False)
    assert not claim.exists()
    with other.claimed(claim) as second:
        assert second


def test_a_claim_that_cannot_be_read_again_costs_nothing(tmp_path):
    claim = tmp_path / "100" / ".claim"
    with Claims().claimed(claim) as is_ours:
        assert is_ours
        claim.unlink()
        claim.parent.rmdir()


def test_the_work_of_a_dead_server_is_taken_when_its_claim_stands_still(tmp_path, monkeypatch):
    claim = tmp_path / ".claim"
    assert Lease(claim).take()  # and its holder is killed
    claims = Claims()
    with claims.claimed(claim) as is_ours:
        assert not is_ours
    sight = claims._leases[claim]._sight
    now = sight.clock()
    sight.clock = lambda: now + 60
    with claims.claimed(claim) as is_ours:
        assert is_ours
    assert not claim.exists()
