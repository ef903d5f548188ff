"""A training process for tests that kill it:  python -m tests.train.worker RUN OPTIONS-JSON PAUSE

In the middle of step PAUSE (-1: never) it prints "paused" and waits for a line on standard input.
"""

from __future__ import annotations

import json
import sys

from minilm.train.loop import TrainingOptions, train
from tests.train.toy import Toy, toy_data


def main(run: str, options: str, pause: str) -> None:
    settings = TrainingOptions(**json.loads(options))
    data = toy_data(settings.micro_batches)
    draw = data.batch

    def batch(step: int, micro: int):
        if step == int(pause) and micro == settings.micro_batches - 1:
            print("paused", flush=True)
            sys.stdin.readline()
        return draw(step, micro)

    data.batch = batch
    result = train(Toy(), data, settings, run, resume=True, progress=False)
    print(json.dumps({"step": result.step, "interrupted": result.interrupted}), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
