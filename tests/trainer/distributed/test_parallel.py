import torch
import torch.distributed as dist

from tests.soractl.conftest import free_port
from trainer.config import TrainerConfig
from trainer.distributed.parallel import Ranks, group_on_hosts, process_group

CONFIG = TrainerConfig(dtype="bf16", compile=False, collective_timeout_s=60)


def test_a_rank_is_in_the_group_that_torchrun_describes_until_the_end(monkeypatch):
    described = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "localhost"}
    for name, value in {**described, "MASTER_PORT": str(free_port())}.items():
        monkeypatch.setenv(name, value)
    with process_group(CONFIG) as ranks:
        if not torch.cuda.is_available():
            assert ranks == Ranks(0, 0, 1, torch.device("cpu"))
        assert dist.is_initialized()
        group = group_on_hosts("votes", 5.0)
        assert (group.group_desc, dist.get_backend(group)) == ("votes", "gloo")
    assert not dist.is_initialized()


def test_rank_0_speaks_for_all():
    ranks = [Ranks(number, number, 2, torch.device("cpu")) for number in range(2)]
    assert [one.is_first for one in ranks] == [True, False]
