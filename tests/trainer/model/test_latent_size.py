from tests.trainer.model.test_vae import facts_of
from trainer.model.latent_size import latent_size


def test_latent_sizes_equal_the_references(golden):
    facts = facts_of(golden, "latent_size")
    for size, expected in facts["rows"]:
        assert latent_size(tuple(size)) == tuple(expected)
    for size, expected in facts["micro_frame_size_none"]:
        assert latent_size(tuple(size), None) == tuple(expected)
