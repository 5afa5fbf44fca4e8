"""Entry point. Health checks run twice a minute, so they are answered before anything heavy is imported."""

from __future__ import annotations

import sys


def main() -> int:
    """Run the command line and return its exit status."""
    if sys.argv[1:2] == ["healthcheck"]:
        from exporter.commands import healthcheck

        return healthcheck.main(sys.argv[2:])
    from exporter import cli

    return cli.main()


if __name__ == "__main__":
    sys.exit(main())
