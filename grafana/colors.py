"""The colours of lines, values and states."""

from __future__ import annotations

# The line colours differ clearly with protanopia, deuteranopia and tritanopia (CIE76 distance of 25 or more), and stand
# out on Grafana's dark and light backgrounds.
VIOLET, ORANGE, TEAL, MAGENTA, RED = LINE_COLORS = ("#6A51C7", "#D98200", "#12A37F", "#B35FA8", "#C8442C")
GREY = "#8E8E8E"
GOOD, WARNING, BAD = TEAL, ORANGE, RED
