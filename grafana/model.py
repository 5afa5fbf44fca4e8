"""Model and GPU: what happened to this one?"""

from __future__ import annotations

from typing import Any

import overview
import panels as p
import queries as q
from grafana_foundation_sdk.builders import common, dashboard, stat, table, timeseries
from grafana_foundation_sdk.models import common as c

NAME = "{{model}} on {{target}}"
MEAN = "With several pairs chosen this is their mean."
REASONS = {
    "sw_power_cap": ("power limit", p.GREY),
    "sw_thermal": ("heat, by software", p.ORANGE),
    "hw_thermal": ("heat, by hardware", p.RED),
    "hw_power_brake": ("power brake", p.MAGENTA),
    "hw_slowdown": ("hardware slowdown", p.TEAL),
}
POINTS = {"custom__drawStyle": "points", "custom__pointSize": 7, "custom__showPoints": "always"}


def cause() -> stat.Panel:
    """Return the stat that names the cause."""
    calm = (
        f'label_replace({q.record("ollama_probe:decode_tokens_per_second:reference")} * 0, "cause", "no_drop", "", "")'
    )
    found = f"{overview.why()} or on ({q.RECORD_KEY}) max by ({q.RECORD_KEY}, cause) ({calm})"
    panel = p.number(
        "Cause",
        "The first suspect of the shipped rules, or why probes fail. Good is “no drop”. The runbook of the alert says "
        "what to do about each.",
        "none",
        found,
    )
    panel.targets([p.query(found, instant=True)])
    panel.reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]).values(values=False).fields("/^cause$/"))
    calm_words = p.words({"no_drop": ("no drop", p.GOOD)})
    return panel.mappings([overview.cause_words(), calm_words]).no_value("no rules loaded")


def headline() -> list[tuple[int, Any]]:
    """Return the numbers of the first row."""
    level = p.thresholds((None, p.BAD), (0.75, p.WARN), (0.92, p.GOOD))
    share = f"max by ({q.RECORD_KEY}) ({q.DECODE}) / on ({q.RECORD_KEY}) {q.normal()}"
    age = f"time() - {q.status('last_success_timestamp_seconds')}"
    return [
        (
            3,
            p.number(
                "Tokens/s",
                "Tokens per second while generating, by Ollama's own count and clock: the GPU's health, and what "
                "alerts use.",
                "none",
                q.DECODE,
                NAME,
            ).decimals(1),
        ),
        (
            3,
            p.number(
                "Of its normal",
                "Over 92 % is good, under 75 % is bad. Normal: the rules' reference, else the expected rate, else "
                "the median of a week.",
                "percentunit",
                share,
                NAME,
            )
            .decimals(0)
            .thresholds(level),
        ),
        (3, cause()),
        (
            3,
            p.number(
                "GPU",
                "What ran the model in the newest reading. cpu is bad: the model fell off its GPU; restart Ollama "
                "and look at the driver.",
                "none",
                q.short(q.DECODE),
                "{{gpu}}",
            ).text_mode(c.BigValueTextMode.NAME),
        ),
        (
            3,
            p.number(
                "Words/s",
                "The reference program's figure: whitespace-separated words of the answer / elapsed.",
                "none",
                q.reading("tokens_per_second"),
                NAME,
            ).decimals(2),
        ),
        (
            3,
            p.number(
                "Words",
                "The reference program's token count: whitespace-separated words of the answer. num_predict caps it.",
                "none",
                q.reading("token_count"),
                NAME,
            ),
        ),
        (
            3,
            p.number(
                "Elapsed",
                "The reference program's elapsed time: wall clock around the chain, the model already loaded.",
                "s",
                q.reading("elapsed_seconds"),
                NAME,
            ).decimals(2),
        ),
        (
            3,
            p.number(
                "Last reading",
                "Time since the newest good probe. Good is below twice the interval; above it look at failures on "
                "the fleet board.",
                "s",
                age,
                NAME,
            ).decimals(0),
        ),
    ]


def rate() -> timeseries.Panel:
    """Return the rate with its normal, its band and the readings to distrust."""
    by = "job, target, model, gpu"
    contended = q.reading("contended", 'by=~"gpu|model"')
    shared = f"{q.DECODE} and {q.ON_PAIR} (max by (job, instance, target, model) ({contended}) == 1)"
    cut = f"{q.DECODE} and {q.ON_PAIR} ({q.reading('truncated')} == 1)"
    panel = p.ranked_lines(
        "Decode rate in tokens/s, and what is normal",
        "Tokens per second while generating. Good is inside the band, which is 10 % about the normal rate (the rules' "
        "reference, else the expected rate, else the median of a week); normal and band are drawn when one pair is "
        "chosen. A line with another GPU's name is where the model moved to. Points mark readings to distrust: taken "
        "beside other work on the GPU, or cut off at the deadline. Dashed marks: firing alerts, and changes of "
        "version, digest, driver and workload.",
        by,
        q.DECODE,
        NAME + " ({{gpu}})",
    )
    band = {"band, low": 0.9, "band, high": 1.1}
    extra = [p.query(q.if_one_pair(f"{q.normal()} * {factor}"), name, name=name[6:]) for name, factor in band.items()]
    extra.append(p.query(q.if_one_pair(q.normal()), "normal", name="normal"))
    extra.append(p.query(shared, "beside other work", name="shared"))
    extra.append(p.query(cut, "cut off", name="cut"))
    for target in extra:
        panel.with_target(target)
    faint = {
        "custom__lineWidth": 0,
        "color": p.fixed(p.GREY),
        "custom__hideFrom": {"legend": True, "tooltip": False, "viz": False},
    }
    panel.override_by_name("band, low", p.properties(**faint))
    panel.override_by_name("band, high", p.properties(**faint, custom__fillBelowTo="band, low", custom__fillOpacity=18))
    dashes = {"fill": "dash", "dash": [8, 8]}
    panel.override_by_name("normal", p.properties(color=p.fixed(p.GREY), custom__lineStyle=dashes, custom__lineWidth=1))
    panel.override_by_name("beside other work", p.properties(color=p.fixed(p.MAGENTA), **POINTS))
    panel.override_by_name("cut off", p.properties(color=p.fixed(p.RED), **POINTS))
    return panel.axis_label("")


def stages() -> timeseries.Panel:
    """Return where the server's time went."""
    colors = {"decode": p.VIOLET, "prefill": p.TEAL, "load": p.ORANGE, "queue": p.RED}
    panel = p.lines(
        "Where the time went",
        "Server's time in the measured request, stacked. Good is nearly all decode. Queue: waited for Ollama's slot; "
        f"load: the model was not ready; prefill: read the prompt. {MEAN}",
        "s",
        p.query(f"avg by (stage) ({q.reading('stage_seconds')})", "{{stage}}"),
    )
    panel.stacking(common.StackingConfig().mode(c.StackingMode.NORMAL).group("A")).fill_opacity(70).line_width(0)
    return p.paint(panel, colors)


def gpu() -> list[timeseries.Panel]:
    """Return the charts of the card during the probe, to be read below the rate."""
    clock = f"min({q.reading('gpu_clock_hertz')} / {q.reading('gpu_clock_max_hertz')})"
    throttling = p.lines(
        "GPU clock and throttling",
        "The card during the probe: its clock as a share of its maximum, and the share of the time in which it was "
        "held back. Good is a steady clock and no throttling. Power limit: normal on a card at full load; heat, brake "
        "or slowdown: look at cooling and the power supply. With several pairs, the worst.",
        "percentunit",
        p.query(clock, "clock, of its maximum", name="clock"),
        p.query(f"max by (reason) ({q.reading('gpu_throttled_ratio')}) > 0", "{{reason}}", name="throttled"),
    )
    p.paint(throttling.max(1), {"clock, of its maximum": p.VIOLET})
    for reason, (said, color) in REASONS.items():
        faint = {"custom__lineWidth": 1, "custom__fillOpacity": 15}
        throttling.override_by_name(reason, p.properties(displayName=said, color=p.fixed(color), **faint))
    offload = p.lines(
        "Share on the GPU, and how busy it was",
        "Good is 100 % on the GPU (what Ollama claims, which can be wrong) and near 100 % busy. Less on the GPU: free "
        "VRAM, or lower OLLAMA_CONTEXT_LENGTH. With several pairs, the lowest.",
        "percentunit",
        p.query(f"min({q.reading('model_gpu_ratio')})", "model on the GPU", name="offload"),
        p.query(f"min({q.reading('gpu_utilization_ratio')})", "GPU busy", name="busy"),
    )
    p.paint(offload.max(1), {"model on the GPU": p.VIOLET, "GPU busy": p.ORANGE})
    power = p.lines(
        "GPU power",
        "Mean power during the probe, summed over several cards. Good is what this card always showed; less means "
        "that it waits for something, or is held back. With several pairs, the highest.",
        "watt",
        p.query(f"max({q.reading('gpu_power_watts')})", "power"),
    )
    temperature = p.lines(
        "GPU temperature",
        "The highest during the probe. Good is what this card always showed; a rise before a fall of the clock is a "
        "cooling fault: clean it, look at the fans. With several pairs, the highest.",
        "celsius",
        p.query(f"max({q.reading('gpu_temperature_celsius')})", "temperature"),
    )
    return [panel.no_value(p.NO_GPU) for panel in (throttling, offload, power, temperature)]


def work() -> list[timeseries.Panel]:
    """Return the charts of the work that was done."""
    first = p.lines(
        "Time to first token, and loading",
        "From request to first text, by the client's clock; good is well below a second and steady. Model load: only "
        "where the probe had to load it; long or frequent loads mean that the model does not stay in VRAM. The axis "
        f"is logarithmic. {MEAN}",
        "s",
        p.query(f"avg({q.reading('time_to_first_token_seconds')})", "first token", name="first"),
        p.query(f"avg({q.reading('model_load_seconds')})", "model load", name="load"),
    )
    first.scale_distribution(common.ScaleDistributionConfig().type(c.ScaleDistribution.LOG).log(10)).axis_soft_min(0.1)
    loads = p.properties(color=p.fixed(p.ORANGE), **POINTS)
    p.paint(first, {"first token": p.VIOLET}).override_by_name("model load", loads)
    words = p.lines(
        "Words and tokens per answer",
        "Words are whitespace-separated, as the reference program counts; tokens are the model's own. Steady is good: "
        f"the same prompt with temperature 0. A step means another model, workload or version. {MEAN}",
        "none",
        p.query(f"avg({q.reading('token_count')})", "words", name="words"),
        p.query(f"avg({q.reading('output_tokens')})", "tokens", name="tokens"),
    )
    p.paint(words, {"words": p.VIOLET, "tokens": p.ORANGE})
    energy = p.lines(
        "Tokens per joule",
        "Output tokens / the card's energy from the first token to the last; more is better. A fall without a fall of "
        f"the rate is a card that draws more for the same work. {MEAN}",
        "none",
        p.query(f"avg({q.reading('tokens_per_joule')})", "tokens per joule"),
    ).no_value(p.NO_GPU)
    bandwidth = p.lines(
        "Memory bandwidth used",
        "Rate x model size / the card's peak bandwidth, for dense models. A healthy card reaches 40-80 %, and always "
        f"the same. {MEAN}",
        "percentunit",
        p.query(f"avg({q.reading('bandwidth_utilization_ratio')})", "of the card's peak"),
    )
    return [first, words, energy, bandwidth.max(1).no_value(p.NO_GPU)]


def identity() -> table.Panel:
    """Return what was measured: model, server, workload, card."""
    pair = "job, instance, target, model"
    details = "family, parameter_size, quantization, context_length, digest"
    model = q.of_gpu(f"ollama_probe_model_info{{{q.PAIR}}}")
    server = f"group_left (version) ollama_probe_server_info{{{q.TARGET}}}"
    version = f"{q.status('interval_seconds')} * 0 + on (job, instance, target) {server}"
    card = q.of_gpu(f"ollama_probe_model_gpu_info{{{q.PAIR}}}")
    driver = (
        f"{card} * on (job, instance, uuid) group_left (driver_version, index) ollama_probe_gpu_info{{{q.EXPORTER}}}"
    )
    panel = p.rows(
        "What ran",
        "The newest known identity of each pair: a change here explains a step in the rate. Rates compare only within "
        "one workload hash. The card is known only where the exporter runs beside Ollama.",
        [
            "model",
            "target",
            "parameter_size",
            "quantization",
            "context_length",
            "digest",
            "version",
            "hash",
            "index",
            "driver_version",
            "uuid",
        ],
        p.query(f"max by ({pair}, {details}) ({model})", name="model", instant=True),
        p.query(f"max by ({pair}, version) ({version})", name="version", instant=True),
        p.query(f"max by ({pair}, hash) ({q.status('workload_info')})", name="workload", instant=True),
        p.query(f"max by ({pair}, uuid, index, driver_version) ({driver})", name="card", instant=True),
    )
    titles = {
        "model": "Model",
        "target": "Target",
        "parameter_size": "Size",
        "quantization": "Quantization",
        "context_length": "Context",
        "digest": "Digest",
        "version": "Ollama",
        "hash": "Workload",
        "index": "Card",
        "driver_version": "Driver",
        "uuid": "Card's UUID",
    }
    for name, title in titles.items():
        p.column(panel, name, title)
    return panel


def build() -> dashboard.Dashboard:
    """Return the board."""
    made = p.board(
        "ollama-throughput", "Ollama throughput: model and GPU", "What happened to this model on this GPU?", "now-7d"
    )
    grid = [
        (9, [(12, rate()), (12, stages())]),
        *((7, [(12, card), (12, other)]) for card, other in zip(gpu(), work(), strict=True)),
    ]
    for _, panels in grid:
        for _, panel in panels:
            panel.axis_width(60)  # the same left of every chart, so that their time axes lie below each other
    p.lay(made, [(3, headline()), *grid, (5, [(24, identity())])])
    return made
