from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch


@pytest.fixture(scope="session")
def golden():
    """Numbers that a correct implementation reproduces."""
    return Path(__file__).parent.parent / "golden"


def _moving_pattern(number, height, width):
    """Frame `number`: a picture that moves, brightens and never looks black."""
    down, right = np.mgrid[:height, :width]
    waves = 90 + 60 * np.sin((down + 3 * number) / 9) + 2 * (number % 40)
    channels = [waves, np.flipud(waves), waves + 40 * np.cos((right - 5 * number) / 7)]
    return np.stack(channels, axis=2).clip(40, 255).astype(np.uint8)


@pytest.fixture(scope="session")
def write_video():
    """Encode a short film; `times` gives each frame's presentation time in frames."""

    def write(path, frames, *, size=(48, 64), codec="libx264", rate=24, times=None, options=None):
        with av.open(str(path), "w") as container:
            stream = container.add_stream(codec, rate=rate, options=options or {})
            stream.height, stream.width = size
            stream.pix_fmt = "yuv420p"
            stream.codec_context.thread_count = 1
            for number in range(frames):
                frame = av.VideoFrame.from_ndarray(_moving_pattern(number, *size), format="rgb24")
                frame.pts = times[number] if times else number
                frame.time_base = 1 / Fraction(rate)
                container.mux(stream.encode(frame))
            container.mux(stream.encode())
        return str(path)

    return write


@pytest.fixture(scope="session")
def write_table(write_video):
    """Write films of so many frames, one of them broken, and their table."""

    def write(folder, lengths, *, size, broken):
        import pandas as pd

        paths = [
            write_video(folder / f"{row}.mp4", length, size=size)
            for row, length in enumerate(lengths)
        ]
        Path(paths[broken]).write_bytes(b"no film")
        columns = {"path": paths, "text": [f"film {'x' * row}" for row in range(len(paths))]}
        numbers = {"num_frames": lengths, "height": size[0], "width": size[1]}
        pd.DataFrame({**columns, **numbers}).to_csv(folder / "clips.csv", index=False)
        return folder / "clips.csv"

    return write


@pytest.fixture
def t5_folder(tmp_path):
    """A T5 encoder of one narrow layer that knows two words, as a folder on disk."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast, T5Config, T5EncoderModel

    folder = tmp_path / "t5"
    words = {"<pad>": 0, "</s>": 1, "<unk>": 2, "a": 3, "cat": 4}
    tokeniser = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokeniser.pre_tokenizer = pre_tokenizers.Whitespace()
    tokeniser.post_processor = processors.TemplateProcessing("$A </s>", None, [("</s>", 1)])
    PreTrainedTokenizerFast(
        tokenizer_object=tokeniser, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    ).save_pretrained(folder)
    torch.manual_seed(0)
    config = T5Config(vocab_size=5, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2)
    T5EncoderModel(config).save_pretrained(folder)
    return folder


@pytest.fixture
def group_of_one():
    """A process group of this process alone."""
    import torch.distributed as dist

    from trainer.distributed.parallel import Ranks

    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield Ranks(rank=0, local_rank=0, world_size=1, device=torch.device("cpu"))
    dist.destroy_process_group()
