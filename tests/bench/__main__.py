"""Run every benchmark with its defaults, one after another: `python tests/bench`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

PROGRAMS = ("lifecycle", "reference", "truth", "cpu_per_chunk", "scrape", "memory", "start")

if __name__ == "__main__":
    for name in PROGRAMS:
        subprocess.run([sys.executable, str(Path(__file__).with_name(f"{name}.py"))], check=True)
