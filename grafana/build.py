"""Write the dashboards: `python grafana/build.py [FOLDER]`. The default folder is `dashboards`, next to this file."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import fleet
import model
import overview
from grafana_foundation_sdk.cog.encoder import JSONEncoder


def write_dashboards(folder: Path) -> None:
    """Write each dashboard as UID.json with sorted keys, so that a rebuild changes only what was edited."""
    for module in (overview, model, fleet):
        dashboard = module.build().build()
        file = folder / f"{dashboard.uid}.json"
        file.write_text(json.dumps(dashboard, cls=JSONEncoder, sort_keys=True, indent=2, ensure_ascii=False) + "\n")
        print(file)


if __name__ == "__main__":
    write_dashboards(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "dashboards")
