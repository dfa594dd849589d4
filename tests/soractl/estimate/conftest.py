import pytest


@pytest.fixture
def table(tmp_path):
    rows = [f"{number}.mp4,a cat,60,720,1280" for number in range(4000)]
    file = tmp_path / "clips.csv"
    file.write_text("\n".join(["path,text,num_frames,height,width", *rows]) + "\n")
    return file
