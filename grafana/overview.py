"""Overview: is everything as fast as it should be?"""

from __future__ import annotations

from typing import Any

import panels as p
import queries as q
from grafana_foundation_sdk.builders import dashboard, table
from grafana_foundation_sdk.models import dashboard as d

CAUSES = {
    "cpu": "runs on the CPU",
    "partial_offload": "partly off the GPU",
    "thermal": "GPU too hot",
    "hw_power_brake": "power brake",
    "hw_slowdown": "hardware slowdown",
    "contended": "GPU shared",
    "power_cap": "power limit",
    "clock_low": "clock low",
    "workload_changed": "prompt changed",
    "version_changed": "Ollama changed",
    "digest_changed": "model changed",
    "driver_changed": "driver changed",
    "none_visible": "none visible",
}
"""The causes of the shipped rules, in a reader's words."""

KEY = q.RECORD_KEY
RATE = f"max by ({KEY}, gpu) ({q.DECODE})"
DROP = f"1 - max by ({KEY}) ({q.DECODE}) / on ({KEY}) {q.normal()}"


def cause_words() -> d.ValueMap:
    """Return the mapping from the rules' causes to words."""
    return p.words({cause: (said, p.GREY if cause == "none_visible" else p.WARN) for cause, said in CAUSES.items()})


def why() -> str:
    """Return each slow pair's cause, from the rules, or why its newest probe failed, both as the label `cause`."""
    failing = f"max by ({KEY}) ({q.status('success')}) == 0"
    counted = [
        f"topk by ({KEY}) (1, sum by ({KEY}, reason) ({q.increase('failures_total', w)}) > 0)" for w in ("1h", "13h")
    ]
    reason = f"({counted[0]} or on ({KEY}) {counted[1]}) and on ({KEY}) ({failing})"
    failed = f'label_replace({reason}, "cause", "probe fails: $1", "reason", "(.+)")'
    return f"max by ({KEY}, cause) ({failed}) or on ({KEY}) max by ({KEY}, cause) ({q.record('ollama_probe:cause')})"


def headline() -> list[tuple[int, Any]]:
    """Return the numbers of the first row."""
    drop = f"({DROP})"
    slow = f"count({drop} > 0.1) or 0 * count({q.status('interval_seconds')})"
    failing = f"count({q.status('success')} == 0) or 0 * count({q.status('interval_seconds')})"
    down = f"count(ollama_probe_up{{{q.TARGET}}} == 0) or 0 * count(ollama_probe_up{{{q.TARGET}}})"
    firing = f"count({p.ALERTS}) or 0 * count({q.status('interval_seconds')})"
    pairs = f"count({q.status('interval_seconds')})"
    none_is_good = p.thresholds((None, p.GOOD), (1, p.BAD))
    count = "Good is 0. "
    return [
        (4, p.number("Pairs measured", "Models on targets that are probed, within the filters above.", "none", pairs)),
        (
            5,
            p.number(
                "More than 10 % slow",
                f"{count}Pairs whose newest reading is over 10 % below their normal rate; one bad reading may be a "
                "neighbour on the GPU. The table names them.",
                "none",
                slow,
            ).thresholds(p.thresholds((None, p.GOOD), (1, p.WARN))),
        ),
        (
            5,
            p.number(
                "Newest probe failed",
                f"{count}Pairs whose newest probe measured nothing. The table says why.",
                "none",
                failing,
            ).thresholds(none_is_good),
        ),
        (
            5,
            p.number(
                "Servers down",
                f"{count}Targets whose /api/version did not answer. Start Ollama there, or mend the network or the "
                "URL.",
                "none",
                down,
            ).thresholds(none_is_good),
        ),
        (
            5,
            p.number(
                "Alerts firing",
                f"{count}Alerts of the shipped rules that fire now. Always 0 where the rules are not loaded.",
                "none",
                firing,
            ).thresholds(none_is_good),
        ),
    ]


def pairs() -> table.Panel:
    """Return the table of all pairs, the slowest against their own normal first."""
    age = f"time() - max by ({KEY}) ({q.status('last_success_timestamp_seconds')})"
    panel = p.rows(
        "Every model on every target, furthest below its normal first",
        "Rate: tokens per second while generating, by Ollama's own count and clock. Normal: the rules' reference, "
        "else the configured expected rate, else the median of a week. Below normal: under 8 % is good; over 25 % "
        "needs a look. Cause comes from the shipped rules, or says why probes fail; it is empty where nothing is "
        "wrong or no rules are loaded. On the GPU is what Ollama claims, which can be wrong: the GPU column is what "
        "was seen. Click a model for its own board.",
        [
            "model",
            "target",
            "gpu",
            "Value #rate",
            "Value #normal",
            "Value #drop",
            "cause",
            "Value #success",
            "Value #age",
            "Value #offload",
        ],
        p.query(f"max by ({KEY}) ({q.status('success')})", name="success", instant=True),
        p.query(q.short(RATE), name="rate", instant=True),
        p.query(q.normal(), name="normal", instant=True),
        p.query(DROP, name="drop", instant=True),
        p.query(why(), name="why", instant=True),
        p.query(age, name="age", instant=True),
        p.query(f"min by ({KEY}) ({q.reading('model_gpu_ratio')})", name="offload", instant=True),
    )
    colored = {"type": "color-background", "mode": "basic"}
    success = p.words({"1": ("ok", p.GOOD), "0": ("failed", p.BAD)})
    link = p.to_model_board("${__data.fields.Target}", "${__data.fields.Model}")
    p.column(panel, "model", "Model", links=[link], custom__width=165)
    p.column(panel, "target", "Target", custom__width=120)
    p.column(
        panel, "gpu", "GPU", mappings=[p.words({"cpu": ("cpu", p.BAD)})], custom__cellOptions={"type": "color-text"}
    )
    p.column(panel, "Value #rate", "Tokens/s", decimals=1, custom__width=90)
    p.column(panel, "Value #normal", "Normal", decimals=1, custom__width=85)
    p.column(
        panel,
        "Value #drop",
        "Below normal",
        unit="percentunit",
        decimals=0,
        custom__width=130,
        custom__cellOptions=colored,
        thresholds=p.thresholds((None, "transparent"), (0.08, p.WARN), (0.25, p.BAD)).build(),
    )
    p.column(
        panel, "cause", "Cause", mappings=[cause_words()], custom__cellOptions={"type": "color-text"}, custom__width=170
    )
    p.column(
        panel,
        "Value #success",
        "Probe",
        mappings=[success],
        custom__cellOptions={"type": "color-text"},
        custom__width=75,
    )
    p.column(panel, "Value #age", "Last reading", unit="s", decimals=0, custom__width=110)
    p.column(
        panel,
        "Value #offload",
        "On the GPU",
        unit="percentunit",
        decimals=0,
        custom__width=105,
        custom__cellOptions={"type": "color-text"},
        thresholds=p.thresholds((None, p.BAD), (0.5, p.WARN), (0.98, "text")).build(),
    )
    return panel.sort_by([p.common.TableSortByFieldState().display_name("Below normal").desc(desc=True)])


def build() -> dashboard.Dashboard:
    """Return the board."""
    made = p.board(
        "ollama-throughput-overview",
        "Ollama throughput: overview",
        "Is every model on every GPU as fast as it should be?",
        "now-24h",
    )
    share = p.lines(
        "Rate as a share of its own normal",
        "One line per model on a target; 100 % is normal, whatever the model. Good is a flat line; a line under 90 % "
        "for half a day is what the rules warn of. Readings beside other work on the GPU are left out. Needs the "
        "rules.",
        "percentunit",
        p.query(q.record("ollama_probe:decode_tokens_per_second:ratio"), "{{model}} on {{target}}"),
    )
    p.shares(share.no_value(p.NO_RULES).axis_soft_max(1.1), 0.75, 0.92)
    by_model = p.ranked_lines(
        "Decode rate by model",
        "Tokens per second while generating, the mean over the targets that have the model. A step that lasts is the "
        "finding; the five fastest have colours, others are grey. A gap: no probe succeeded.",
        "model",
        q.DECODE,
        "{{model}}",
    )
    by_gpu = p.ranked_lines(
        "Decode rate by GPU",
        "Tokens per second while generating, the mean over the models measured on the GPU: compare a GPU with its own "
        "past, for models differ. A line named cpu that begins is a model that fell off its GPU.",
        "gpu",
        q.DECODE,
        "{{gpu}}",
    )
    p.lay(made, [(3, headline()), (9, [(24, pairs())]), (9, [(8, share), (8, by_model), (8, by_gpu)])])
    return made
