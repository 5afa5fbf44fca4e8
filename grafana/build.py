"""Write the dashboards: `python grafana/build.py [FOLDER]`, by default into `dashboards/` beside this file."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import fleet
import model
import overview
from grafana_foundation_sdk.cog.encoder import JSONEncoder


def main(folder: Path) -> None:
    """Write each board as JSON, keys sorted, so that a rebuild changes only what was changed."""
    for room in (overview, model, fleet):
        made = room.build().build()
        file = folder / f"{made.uid}.json"
        file.write_text(json.dumps(made, cls=JSONEncoder, sort_keys=True, indent=2, ensure_ascii=False) + "\n")
        print(file)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "dashboards")
