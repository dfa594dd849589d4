"""What a resume makes of a checkpoint that is damaged, and that it is kept while it is read."""

import pytest

from tests.end_to_end.forked import Trainer
from tests.trainer.checkpoints.test_integrity import flipped
from tests.trainer.distributed.test_node_group import files_opened


@pytest.mark.slow  # three starts of a rank or two
def test_a_damaged_checkpoint_ends_a_resume_with_one_sentence(tmp_path, clips_csv):
    trainer = Trainer(tmp_path, clips_csv, "checkpoint.every_steps=1", "trainer.max_steps=2")
    attempt = trainer.launch()
    assert attempt.end() == [0, 0]
    first, second = attempt.run.checkpoints()
    [shard] = second.optimizer.glob("__1_*")
    with flipped(shard), files_opened(second.path) as opened:
        damaged = trainer.resume("latest", "trainer.max_steps=3")
        assert damaged.end() == [1, 1]
    assert len([name for name in opened if name.startswith(".read-by-")]) == 1  # of the node
    assert second.readers() == []
    message = f"{shard} is damaged: it is not what checkpoint.json says; "
    message += f"the complete checkpoint before it is {first.path}"
    failures = damaged.dir.rank_failures()
    remedy = {"checkpoint": str(first.path)}
    found = [(row["error"], row["traceback"], row["remedy"]) for row in failures]
    assert found == [(message, None, remedy)] * 2

    [weights] = second.model.glob("*.safetensors")
    with flipped(weights):
        started = trainer.launch(f"init_from={second.path}", world_size=1)
        assert started.end() == [1]
    [failure] = started.dir.rank_failures()
    assert failure["error"].startswith(f"{weights} is damaged: ")
