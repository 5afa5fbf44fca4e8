"""Every constant of the rules, with the trade-off behind it. Ratios are shares of the reference rate, times seconds.

Figures of detection and false alarms are results of the alert benchmark, see tests/bench/alerts/README.md.
"""

MINUTE = 60.0
HOUR = 60 * MINUTE
DAY = 24 * HOUR

NO_EVIDENCE_WINDOW = 210 * MINUTE
"""How long every clean reading must be slow before a drop pages that no state of the GPU explains.

This is the one trade-off between late and false pages. Only time separates an unmarked session of other work from a
drop of unknown cause, so the window must be longer than such sessions: a shorter one pages sooner and raises false
alarms on a busy afternoon, a longer one delays every page. At intervals of 15 minutes, with sessions of 10-60 minutes
of which 40 % are unmarked, 180 minutes raised three false pages in 200 series-months and 210 minutes none; a true drop
pages within four hours. Double it where work that cannot be marked lasts for hours, for example on a remote server.
"""
NO_EVIDENCE_COVERAGE = 0.6
"""Minimum share of that window with clean readings; the other probes failed or are marked as contended. A higher share
misses a drop between marked sessions (0.9 detected two of three within four hours); a lower one mistakes unmarked
sessions for a drop."""

RECENT_COVERAGE = 0.8
"""Minimum share of the window of the last three runs in which a state must be known. With less, the mean is that of a
single reading."""

SUDDEN_FIRES, SUDDEN_CLEARS = 0.65, 0.80
"""Best reading of the window; median of the last hour. Lowering the first to 0.5 halves the false pages and misses
every drop of a third."""
DEEP_FIRES, DEEP_CLEARS = 0.75, 0.80
"""Upper quartile of 12 hours: other work would have to last for nine of the twelve."""
DEGRADED_FIRES, DEGRADED_CLEARS = 0.90, 0.93
"""The same quartile, for a warning."""
DEGRADED_DAY_FIRES, DEGRADED_DAY_CLEARS = 0.92, 0.94
"""Median of 24 hours: finds a drop that noise hides from the quartile."""
DEGRADED_RECOVERED = 0.97
"""A 6-hour median above this ends a warning before the 24-hour median has recovered."""
SMALL_FIRES, SMALL_CLEARS = 0.95, 0.965
"""Median of 48 hours. Expected rates are 2 % off and rates differ by 3 % between day and night, so smaller drops are
not detectable."""
VISIBLE_DROP = 0.90
"""Below this, the last hour counts as a drop whose cause is shown on the dashboard, with or without an alert."""
ALWAYS_CONTENDED_SHARE, ALWAYS_CONTENDED_FIRES = 0.75, 0.90
"""Minimum share of contended readings in 12 hours, and the median rate of all of them, for the contention alert."""

BASELINE_WINDOW, BASELINE_MINIMUM = 2 * DAY, 12 * HOUR
"""The baseline is a median of two days, of which half a day must be clean readings. A longer window learns a gain
later; a shorter minimum learns from a quiet night."""
BASELINE_DECAY_PER_DAY = 0.0005
"""How fast a held baseline decays. During a month of a lasting drop it loses 1.5 %, so that the drop still counts as
one; a baseline that was too high by 1 % is corrected within three weeks."""
BASELINE_MEMORY = 14 * DAY
"""How far back the rules look for the held baseline: less than the 15 days that Prometheus keeps by default."""

NORM_WINDOW, NORM_DELAY = 7 * DAY, 6 * HOUR
"""A GPU state counts only above its own median of one week that ended six hours ago. A GPU that is always throttled a
little, or a model that always runs on the CPU, does not explain a drop of today."""
CONTENDED_SHARE = 0.4
"""Minimum share of contended readings, over the window of an unexplained drop, that makes contention the cause."""
CAP_EXPLAINS_CLOCK = 0.1
"""A low clock is not a cause where the power cap rose by this much: other programs bring about both."""
STATE_MEMORY = 6 * HOUR
"""How long the state of the last three complete runs stays valid: a failed run does not change the cause."""
CHANGE_WINDOW = 3 * DAY
"""How far back a change (version, digest, driver, workload) is looked for: as long as the slowest alert takes."""
CHANGE_MOVED = 0.96
"""A change counts as a cause where the median rate after it is below this share of the median before it."""
HOLD_WITHOUT_READINGS = 6 * HOUR
"""How long an alert is held after the last scrape of its model. Less resolves a page because the exporter died; more
keeps the page of a model that was removed from the configuration."""
LATCH_MEMORY = 10 * MINUTE
"""How long Prometheus may be down without losing the state of firing alerts."""
