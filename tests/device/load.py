"""A load for NVIDIA cards that works when told to: each line on stdin is how many seconds to multiply matrices for.

    python load.py [--model PATH] [--cards 0,1] [--gigabytes 2]

`--model .../blobs/sha256-X` does nothing but stand in the command line, where it makes the process look like Ollama's
runner. `--cards none` never touches a card: a runner that fell to the CPU. It says `ready`, and `done` after each line.
"""

import argparse
import importlib
import sys
import time
from typing import Any

SIZE = 4096


def main() -> None:
    """Work as told until stdin ends."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--model")
    parser.add_argument("--cards", default="0")
    parser.add_argument("--gigabytes", type=float, default=2.0)
    options = parser.parse_args()
    matrices = []
    if options.cards != "none":
        torch: Any = importlib.import_module("torch")  # a runner on the CPU does not need it

        for card in options.cards.split(","):
            held = torch.empty(int(options.gigabytes * 1e9), dtype=torch.uint8, device=f"cuda:{card}")
            matrices.append((torch.randn(SIZE, SIZE, dtype=torch.bfloat16, device=held.device), held))
        for matrix, _ in matrices:
            (matrix @ matrix).sum().item()
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    for line in sys.stdin:
        until = time.monotonic() + float(line)
        while time.monotonic() < until:
            for matrix, _ in matrices:  # one card after the other, as layers are
                for _ in range(20):
                    product = matrix @ matrix
                product[0, 0].item()
            if not matrices:
                time.sleep(0.01)
        sys.stdout.write("done\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
