"""Elapsed time of `probe --reference` minus that of the reference program, each in a new process.

Run `python tests/bench/reference.py [runs]`. The server runs in another process.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
from support.benching import print_figure, print_title, scripted_model, scripted_server

PROGRAM = Path(__file__).parents[1] / "support/reference_program.py"
# Runs the program unchanged and prints its elapsed time unrounded.
EXACT = f"import runpy; print('\\n', runpy.run_path({str(PROGRAM)!r})['elapsed_time'])"
TOKENS = 300


def last_line(*arguments: str, **environ: str) -> str:
    """Return the last line of a Python program's output."""
    command = (sys.executable, *arguments)
    run = subprocess.run(command, env=os.environ | environ, stdout=subprocess.PIPE, text=True, check=True, timeout=120)
    return run.stdout.splitlines()[-1]


def main(runs: int) -> None:
    """Print the differences."""
    differences = []
    print_title(
        f"Elapsed time of `probe --reference` minus the reference program, {TOKENS} tokens in 1.7 s, {runs} runs"
    )
    with scripted_server([scripted_model(200, length=TOKENS)]) as url:
        for _ in range(runs):
            reference = float(last_line("-c", EXACT, OLLAMA_HOST=url))
            probe = json.loads(last_line("-m", "exporter", "probe", "--reference", "--json", "--url", url))
            assert probe["output_tokens"] == TOKENS
            differences.append((probe["elapsed_seconds"] - reference) * 1000)
    print_figure("elapsed", list(map(abs, differences)), " ms", 20, " ".join(f"{value:+.1f}" for value in differences))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", nargs="?", type=int, default=5)
    main(parser.parse_args().runs)
