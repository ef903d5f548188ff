"""The text that is shipped: the King James Bible, so that the first command needs no download.

`kjv.txt.gz` is the public-domain King James text (1769) exactly as Debian's package bible-kjv prints it, gzipped with
a zero time stamp:

    bible -f ge1:1-re22:21 | gzip -9n > kjv.txt.gz

31,102 lines, one verse each, ASCII: "Ge1:1 In the beginning God created the heaven and the earth."
`minilm.text.kjv` parses them.
"""

from __future__ import annotations

import gzip
from importlib.resources import files


def kjv_lines() -> list[str]:
    """The 31,102 lines without their line ends: reference, a space, the verse."""
    packed = files("minilm.data").joinpath("kjv.txt.gz").read_bytes()
    return gzip.decompress(packed).decode("ascii").splitlines()
