"""`data encode smoke` on two nodes with shards of one clip, so that a kill leaves some of them.

python -m tests.soractl.data.encode_one_clip_shards OUT
"""

import os
import sys
from pathlib import Path

from soractl.data.encode import EncodeOptions, encode, planned
from soractl.data.report import encoded_lines


def main():
    options = EncodeOptions(
        "smoke",
        Path(sys.argv[1]),
        hostfile="two.txt",
        variants=2,
        overrides=("data.workers=0",),
        clips_per_shard=1,
    )
    with planned(options, os.environ) as (plan, remote):
        encoded = encode(plan, remote, lambda count: None)
    sys.stdout.write("\n".join(encoded_lines(encoded)))
    return encoded.exit_code


if __name__ == "__main__":
    sys.exit(main())
