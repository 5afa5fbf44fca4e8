"""A load for NVIDIA GPUs: for each line on standard input, multiply matrices for that many seconds.

    python load.py [--model PATH] [--cards 0,1] [--gigabytes 2]

`--model .../blobs/sha256-X` is not used: in the command line, it makes the process look like an Ollama runner. `--cards
none` uses no GPU, like a runner on the CPU. It prints `ready`, and `done` after each line.
"""

import argparse
import sys
import time

SIZE = 4096


def main() -> None:
    """Work until standard input ends."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--model")
    parser.add_argument("--cards", default="0")
    parser.add_argument("--gigabytes", type=float, default=2.0)
    options = parser.parse_args()
    matrices = []
    if options.cards != "none":
        import torch  # noqa: PLC0415 - a runner on the CPU does not need it

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
            for matrix, _ in matrices:  # one GPU after the other, as with a model's layers
                for _ in range(20):
                    product = matrix @ matrix
                product[0, 0].item()
            if not matrices:
                time.sleep(0.01)
        sys.stdout.write("done\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
