"""Fleet: which GPU is best, which is sick?"""

from __future__ import annotations

import panels as p
import queries as q
from grafana_foundation_sdk.builders import common, dashboard, table
from grafana_foundation_sdk.models import dashboard as d

PLACE = "{{model}}, {{gpu}}"


def mean(name: str) -> str:
    """Return a reading's mean over the time range by model and GPU, the GPU without its maker's name."""
    averages = f"avg by (model, gpu) (avg_over_time({q.reading(name)}[$__range]))"
    return q.short(averages)


def matrix() -> table.Panel:
    """Return the table of models against GPU products."""
    panel = p.rows(
        "Which GPU is best: tokens/s by model and GPU",
        "Decode rate, the mean over the time range and over the targets with that GPU. Compare along a row: the same "
        "model on different GPUs. A column named cpu with a number is a model that fell off its GPU, or has none.",
        ["model", "gpu", "Value"],
        p.query(mean("decode_tokens_per_second"), instant=True),
    )
    settings = {"columnField": "gpu", "rowField": "model", "valueField": "Value", "emptyValue": "null"}
    panel.transformations([d.DataTransformerConfig(id_val="groupingToMatrix", options=settings)])
    panel.decimals(1).override_by_regexp(".*", p.properties(noValue="-", custom__wrapHeaderText=True))
    return p.column(panel, "model\\gpu", "Model", custom__width=150)


def outliers() -> table.Panel:
    """Return the table of each pair against its peers."""
    key = "job, instance, target, model, gpu"
    now = f"max by ({key}) ({q.DECODE})"
    rate = "decode_tokens_per_second"
    on_gpu, on_cpu = (f"max by ({key}) ({q.reading(rate, of)})" for of in ('gpu!="cpu"', 'gpu="cpu"'))
    kinds = (
        f"(quantile by (model, gpu) (0.75, {on_gpu}) and count by (model, gpu) ({on_gpu}) > 1)",
        f"quantile by (model) (0.75, {on_gpu})",
    )
    peer = (
        f"{on_gpu} * 0 + on (model, gpu) group_left () {kinds[0]} or {on_cpu} * 0 + on (model) group_left () {kinds[1]}"
    )
    against = f"{now} / ({peer}) - 1"
    panel = p.rows(
        "Which one is sick: the same model across targets",
        "The newest rate against its better peers: the upper quartile of the same model on the same GPU product, or on "
        "all GPUs for what runs on the CPU. Within 10 % is good; a lone outlier is sick: open its board. Needs a model "
        "on two targets at least.",
        ["model", "target", "gpu", "Value #rate", "Value #peer", "Value #against"],
        p.query(q.short(f"({now}) and ({peer})"), name="rate", instant=True),
        p.query(q.short(peer), name="peer", instant=True),
        p.query(q.short(against), name="against", instant=True),
    ).no_value("No model is measured on two targets with the same GPU, so there are no peers to compare with")
    link = p.to_model_board("${__data.fields.Target}", "${__data.fields.Model}")
    p.column(panel, "model", "Model", links=[link], custom__width=130)
    p.column(panel, "target", "Target", custom__width=90)
    p.column(
        panel, "gpu", "GPU", mappings=[p.words({"cpu": ("cpu", p.BAD)})], custom__cellOptions={"type": "color-text"}
    )
    p.column(panel, "Value #rate", "Tokens/s", decimals=1, custom__width=85)
    p.column(panel, "Value #peer", "Peers", decimals=1, custom__width=75)
    levels = p.thresholds((None, p.BAD), (-0.25, p.WARN), (-0.1, "transparent")).build()
    colored = {"type": "color-background", "mode": "basic"}
    p.column(
        panel,
        "Value #against",
        "Against peers",
        unit="percentunit",
        decimals=0,
        custom__width=135,
        custom__cellOptions=colored,
        thresholds=levels,
    )
    return panel.sort_by([common.TableSortByFieldState().display_name("Against peers").desc(desc=False)])


def build() -> dashboard.Dashboard:
    """Return the board."""
    made = p.board(
        "ollama-throughput-fleet",
        "Ollama throughput: fleet",
        "Which GPU is best, and which is sick?",
        "now-7d",
        marks=False,
    )
    roofline = (
        p.bars(
            "Memory bandwidth used (roofline)",
            "Decode rate x model size / the card's peak bandwidth, mean over the time range. Comparable across models "
            "and cards without history; dense models only. 40-80 % is usual; a card far below another of its kind is "
            "sick.",
            "percentunit",
            mean("bandwidth_utilization_ratio"),
            PLACE,
        )
        .max(1)
        .no_value(p.NO_GPU)
    )
    energy = (
        p.bars(
            "Joules per token",
            "The card's energy while generating / tokens, mean over the time range; shorter is better. The same model "
            "on two cards says which is cheaper to run.",
            "joule",
            f"1 / {mean('tokens_per_joule')}",
            PLACE,
        )
        .decimals(2)
        .no_value(p.NO_GPU)
    )
    success = (
        p.bars(
            "Good probes",
            "Successes / runs over the time range, by target. 100 % is good; less: see the failures beside.",
            "percentunit",
            f"sum by (target) ({q.increase('successes_total')}) / sum by (target) ({q.increase('runs_total')})",
            "{{target}}",
        )
        .max(1)
        .color_scheme(p.dashboard.FieldColor().mode(d.FieldColorModeId.THRESHOLDS))
        .thresholds(p.thresholds((None, p.BAD), (0.9, p.WARN), (0.99, p.GOOD)))
    )
    failures = (
        p.bars(
            "Failures by reason",
            "Probes that measured nothing in the time range. None is good. connect: Ollama is down or unreachable; "
            "model_missing: pull it; out_of_memory: free VRAM; timeout and stalled: look at the server's log.",
            "none",
            f"sum by (target, reason) ({q.increase('failures_total')}) > 0.5",
            "{{target}}: {{reason}}",
        )
        .decimals(0)
        .color_scheme(p.dashboard.FieldColor().mode(d.FieldColorModeId.FIXED).fixed_color(p.RED))
        .no_value("No probe failed in this time range")
    )
    skipped = (
        p.bars(
            "Skipped runs by reason",
            "Due runs that measured nothing on purpose. occupied: another model held the GPU; unloaded: as "
            "configured; overlap and late: probes take longer than their interval allows, so make it longer.",
            "none",
            f"sum by (target, reason) ({q.increase('skipped_total')}) > 0.5",
            "{{target}}: {{reason}}",
        )
        .decimals(0)
        .color_scheme(p.dashboard.FieldColor().mode(d.FieldColorModeId.FIXED).fixed_color(p.ORANGE))
        .no_value("No run was skipped in this time range")
    )
    cost = p.bars(
        "Cost of probing: time",
        "Time in probes, loading included, / the time range. Below 2 % is good; above, make the interval longer or "
        "the list of models shorter.",
        "percentunit",
        f"sum by (target) ({q.increase('run_duration_seconds_sum')}) / $__range_s",
        "{{target}}",
    ).decimals(2)
    joules = p.bars(
        "Cost of probing: energy",
        "The cards' energy in good probes in the time range. 3.6 MJ are one kilowatt-hour.",
        "joule",
        f"sum by (target) ({q.increase('gpu_consumed_joules_total')}) > 0",
        "{{target}}",
    ).no_value(p.NO_GPU)
    up = p.lines(
        "Exporter scraped",
        "100 % is good. Less: Prometheus did not reach the exporter, so nothing here is known for that time.",
        "percentunit",
        p.query("avg by (instance) (up{" + q.EXPORTER + "})", "{{instance}}"),
    )
    p.shares(up.max(1), 0.9, 1)
    cpu = p.lines(
        "Exporter's CPU",
        "Cores used by the exporter itself; with several, the highest. Good is a few hundredths; more disturbs the "
        "clock of a running probe.",
        "none",
        p.query("max(rate(process_cpu_seconds_total{" + q.EXPORTER + "}[$__rate_interval]))", "cores"),
    ).axis_soft_max(0.1)
    memory = p.lines(
        "Exporter's memory",
        "Resident memory; with several exporters, the highest. Good is flat; a steady rise is a leak.",
        "bytes",
        p.query("max(process_resident_memory_bytes{" + q.EXPORTER + "})", "resident"),
    )
    p.lay(
        made,
        [
            (8, [(12, matrix()), (12, outliers())]),
            (8, [(8, roofline), (8, energy), (8, success)]),
            (7, [(6, failures), (6, skipped), (6, cost), (6, joules)]),
            (6, [(8, up), (8, cpu), (8, memory)]),
        ],
    )
    return made
