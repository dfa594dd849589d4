import pytest

from tests.end_to_end.forked import Trainer, losses


@pytest.mark.slow  # a compiler of C++ makes the kernels
def test_compiled_training_has_the_losses_of_plain_training(tmp_path, clips_csv):
    trainer = Trainer(tmp_path, clips_csv, "trainer.max_steps=2", "trainer.dtype='fp32'")
    plain = trainer.launch(world_size=1)
    assert plain.end() == [0]
    compiled = trainer.launch("trainer.compile=true", world_size=1)
    assert compiled.end() == [0]
    pairs = zip(losses(plain.run).values(), losses(compiled.run).values(), strict=True)
    for expected, found in pairs:
        assert found == pytest.approx(expected, rel=1e-3)
