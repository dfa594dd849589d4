import json

from PIL import Image

from soractl.data import buckets as data_buckets
from soractl.data.picture import bucket_map
from tests.soractl.data.test_buckets import write_table


def test_table_picture_and_json_show_the_same_numbers(stage):
    kept = [*[(18, 144, 256)] * 4, *[(1, 240, 426)] * 5]
    write_table(stage.folder / "clips.csv", [*kept, (17, 144, 256), (90, 90, 160)])
    done = stage.soractl("data", "buckets", "small", "clips.csv", "--picture", "map.png")
    assert done.stdout == (
        "RESOLUTION  FRAMES  CLIPS  SHARE   BATCH  BATCHES  REMAINDER  TOKENS  SHARE\n"
        "144p        17      4      36.4 %  2      2        0          2.88 k  83.3 %\n"
        "144p        1       5      45.5 %  2      2        1          576     16.7 %\n"
        "no clip in 240p/1\n"
        "\n"
        "3 of 11 clips are not trained on in this epoch\n"
        "  1  too small for every resolution\n"
        "  1  too short for every length\n"
        "  1  left over when a bucket is cut into batches\n"
        "\n"
        "an epoch for 1 rank: 4 steps, 4 micro batches, 3.46 k tokens\n"
        "balance.window = 0: ranks work 100.0 % of a step's time\n"
        "balance.window = 4: ranks work 100.0 % of a step's time\n"
        "picture: map.png\n"
    )
    with Image.open("map.png") as picture:
        coloured = {colour for _, colour in picture.convert("RGB").getcolors(2**20)}
    assert len(coloured) > 10
    values = json.loads(stage.soractl("data", "buckets", "small", "clips.csv", "--json").stdout)
    assert values["balance_by_window"] == {"0": 1.0, "4": 1.0}
    assert [row["clips"] for row in values["buckets"]] == [0, 4, 5]
    epoch = data_buckets.first_epoch("small", stage.folder / "clips.csv", 1, ())
    figure = bucket_map(epoch)
    drawn = [[text.get_text() for text in axis.texts] for axis in figure.axes]
    assert epoch.axes() == (["240p", "144p"], [1, 17])
    assert drawn == [
        ["0", "45.5 %", "36.4 %"],
        ["0", "16.7 %", "83.3 %"],
        ["1 (9.1 %)", "1 (9.1 %)", "0 (0.0 %)", "1 (9.1 %)", "0 (0.0 %)"],
    ]
