"""How much longer a call takes in `probe --reference` than in the program that it stands for, both run anew each time.

Run `python tests/bench/reference.py [runs]`. The server has a process of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
from support.benching import line, model, server, title

PROGRAM = Path(__file__).parents[1] / "support/reference_program.py"
# The very program, with its elapsed time in full, not to two decimals.
EXACT = f"import runpy; print('\\n', runpy.run_path({str(PROGRAM)!r})['elapsed_time'])"
TOKENS = 300


def last_line(*arguments: str, **environ: str) -> str:
    """Return the last line that a Python program prints."""
    command = (sys.executable, *arguments)
    run = subprocess.run(command, env=os.environ | environ, stdout=subprocess.PIPE, text=True, check=True, timeout=120)
    return run.stdout.splitlines()[-1]


def main(runs: int) -> None:
    """Print the difference, each run against the one beside it."""
    differences = []
    title(f"Elapsed of `probe --reference` less that of the reference program, {TOKENS} tokens in 1.7 s, {runs} pairs")
    with server([model(200, length=TOKENS)]) as url:
        for _ in range(runs):
            theirs = float(last_line("-c", EXACT, OLLAMA_HOST=url))
            ours = json.loads(last_line("-m", "exporter", "probe", "--reference", "--json", "--url", url))
            assert ours["output_tokens"] == TOKENS
            differences.append((ours["elapsed_seconds"] - theirs) * 1000)
    line("elapsed", list(map(abs, differences)), " ms", 20, " ".join(f"{value:+.1f}" for value in differences))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", nargs="?", type=int, default=5)
    main(parser.parse_args().runs)
