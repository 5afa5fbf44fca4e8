"""The charts of the dashboard of one model: its decode rate, the GPU during the probes, and the work done."""

from __future__ import annotations

from colors import GREY, MAGENTA, ORANGE, RED, TEAL, VIOLET
from dashboard import NAME
from fields import fix_color, list_properties
from grafana_foundation_sdk.builders.common import ScaleDistributionConfig, StackingConfig
from grafana_foundation_sdk.builders.timeseries import Panel as ChartPanel
from grafana_foundation_sdk.models.common import ScaleDistribution, StackingMode
from panels import NO_GPU_DATA, build_line_chart, build_query, build_ranked_line_chart, color_lines_by_name
from queries import DECODE_RATE, ON_MODEL, require_one_model, select_baseline, select_reading

MEAN = "If several models are selected, this is their mean."
THROTTLE_REASONS = {
    "sw_power_cap": ("power limit", GREY),
    "sw_thermal": ("thermal, software", ORANGE),
    "hw_thermal": ("thermal, hardware", RED),
    "hw_power_brake": ("power brake", MAGENTA),
    "hw_slowdown": ("hardware slowdown", TEAL),
}
"""The label `reason` of the throttled ratio, with the text and the colour of each value."""
POINTS = {"custom__drawStyle": "points", "custom__pointSize": 7, "custom__showPoints": "always"}


def build_rate_chart() -> ChartPanel:
    """Return the decode rate with its baseline, the band around it, and the readings that are not comparable."""
    contended = select_reading("contended", 'by=~"gpu|model"')
    by_model = "job, instance, target, model"
    contended_rate = f"{DECODE_RATE} and {ON_MODEL} (max by ({by_model}) ({contended}) == 1)"
    truncated_rate = f"{DECODE_RATE} and {ON_MODEL} ({select_reading('truncated')} == 1)"
    chart = build_ranked_line_chart(
        "Decode rate and baseline (tokens/s)",
        "Tokens per second while generating; good is inside the band of 10 % around the baseline (drawn if one model "
        "is selected). A line with another GPU's name shows where the model moved to; points mark readings that are "
        "not comparable, because other work shared the GPU or the answer was cut off at the timeout. Vertical lines "
        "mark firing alerts and changes of version, digest, driver and workload.",
        "job, target, model, gpu",
        DECODE_RATE,
        NAME + " ({{gpu}})",
    )
    baseline = select_baseline()
    for query in (
        build_query(require_one_model(f"{baseline} * 0.9"), "baseline - 10 %", ref_id="low"),
        build_query(require_one_model(f"{baseline} * 1.1"), "baseline + 10 %", ref_id="high"),
        build_query(require_one_model(baseline), "baseline", ref_id="baseline"),
        build_query(contended_rate, "contended", ref_id="contended"),
        build_query(truncated_rate, "truncated", ref_id="truncated"),
    ):
        chart.with_target(query)
    edge = {
        "custom__lineWidth": 0,
        "color": fix_color(GREY),
        "custom__hideFrom": {"legend": True, "tooltip": False, "viz": False},
    }
    fill = {"custom__fillBelowTo": "baseline - 10 %", "custom__fillOpacity": 18}
    dashes = {"fill": "dash", "dash": [8, 8]}
    chart.override_by_name("baseline - 10 %", list_properties(**edge))
    chart.override_by_name("baseline + 10 %", list_properties(**edge, **fill))
    chart.override_by_name(
        "baseline", list_properties(color=fix_color(GREY), custom__lineStyle=dashes, custom__lineWidth=1)
    )
    chart.override_by_name("contended", list_properties(color=fix_color(MAGENTA), **POINTS))
    chart.override_by_name("truncated", list_properties(color=fix_color(RED), **POINTS))
    return chart.axis_label("")


def build_stages_chart() -> ChartPanel:
    """Return the server's time by stage."""
    chart = build_line_chart(
        "Server time by stage",
        "Seconds of the measured request, stacked by stage: waiting in Ollama's queue, loading the model, processing "
        f"the prompt (prefill) and generating (decode). Nearly all of it should be decode. {MEAN}",
        "s",
        build_query(f"avg by (stage) ({select_reading('stage_seconds')})", "{{stage}}"),
    )
    chart.stacking(StackingConfig().mode(StackingMode.NORMAL).group("A")).fill_opacity(70).line_width(0)
    return color_lines_by_name(chart, {"decode": VIOLET, "prefill": TEAL, "load": ORANGE, "queue": RED})


def build_gpu_charts() -> list[ChartPanel]:
    """Return the charts of the GPU during the probes, which share the rate chart's time axis."""
    clock = f"min({select_reading('gpu_clock_hertz')} / {select_reading('gpu_clock_max_hertz')})"
    throttling = build_line_chart(
        "GPU clock and throttling",
        "Clock during the probe in percent of its maximum, and the percentage of the time in which the GPU was "
        "throttled. Good is a steady clock; a power limit is usual at full load, for any other reason check cooling "
        "and power supply. If several models are selected, this is the worst value.",
        "percentunit",
        build_query(clock, "clock", ref_id="clock"),
        build_query(f"max by (reason) ({select_reading('gpu_throttled_ratio')}) > 0", "{{reason}}", ref_id="throttled"),
    )
    color_lines_by_name(throttling.max(1), {"clock": VIOLET})
    for reason, (text, color) in THROTTLE_REASONS.items():
        throttling.override_by_name(
            reason,
            list_properties(displayName=text, color=fix_color(color), custom__lineWidth=1, custom__fillOpacity=15),
        )
    offload = build_line_chart(
        "Model on GPU and GPU utilization",
        "Percentage of the model in GPU memory, which Ollama can report wrongly, and utilization of the GPU during the "
        "probe. Both should be near 100 %; if the first is lower, free GPU memory or lower `OLLAMA_CONTEXT_LENGTH`. If "
        "several models are selected, this is the lowest value.",
        "percentunit",
        build_query(f"min({select_reading('model_gpu_ratio')})", "model on GPU (reported)", ref_id="offload"),
        build_query(f"min({select_reading('gpu_utilization_ratio')})", "GPU utilization", ref_id="utilization"),
    )
    color_lines_by_name(offload.max(1), {"model on GPU (reported)": VIOLET, "GPU utilization": ORANGE})
    power = build_line_chart(
        "GPU power",
        "Mean power in watts during the probe, summed over the GPUs of the model. It should stay at its usual level; a "
        "lower one means that the GPU is waiting or throttled. If several models are selected, this is the highest "
        "value.",
        "watt",
        build_query(f"max({select_reading('gpu_power_watts')})", "power"),
    )
    temperature = build_line_chart(
        "GPU temperature",
        "Highest temperature in °C during the probe. If it rises before the clock falls, check cooling and fans. If "
        "several models are selected, this is the highest value.",
        "celsius",
        build_query(f"max({select_reading('gpu_temperature_celsius')})", "temperature"),
    )
    return [chart.no_value(NO_GPU_DATA) for chart in (throttling, offload, power, temperature)]


def build_work_charts() -> list[ChartPanel]:
    """Return the charts of the work done in each probe."""
    first_token = build_line_chart(
        "Time to first token and model load",
        "Seconds from the request to the first text, and seconds to load the model where the probe had to (logarithmic "
        "axis). The first should be steady and well below one second; frequent loads mean that the model does not stay "
        f"in GPU memory. {MEAN}",
        "s",
        build_query(f"avg({select_reading('time_to_first_token_seconds')})", "first token", ref_id="first"),
        build_query(f"avg({select_reading('model_load_seconds')})", "model load", ref_id="load"),
    )
    first_token.scale_distribution(ScaleDistributionConfig().type(ScaleDistribution.LOG).log(10)).axis_soft_min(0.1)
    color_lines_by_name(first_token, {"first token": VIOLET})
    first_token.override_by_name("model load", list_properties(color=fix_color(ORANGE), **POINTS))
    length = build_line_chart(
        "Words and tokens per answer",
        "Length of the answer in words (whitespace-separated tokens) and in the model's own tokens. It should be "
        "steady, because the prompt does not change and the temperature is 0; a step means another model, workload or "
        f"version. {MEAN}",
        "none",
        build_query(f"avg({select_reading('token_count')})", "words", ref_id="words"),
        build_query(f"avg({select_reading('output_tokens')})", "tokens", ref_id="tokens"),
    )
    color_lines_by_name(length, {"words": VIOLET, "tokens": ORANGE})
    energy = build_line_chart(
        "Tokens per joule",
        "Output tokens per joule of GPU energy, from the first token to the last; higher is better. If it falls while "
        f"the decode rate does not, the GPU draws more power for the same work. {MEAN}",
        "none",
        build_query(f"avg({select_reading('tokens_per_joule')})", "tokens per joule"),
    )
    bandwidth = build_line_chart(
        "Memory bandwidth used",
        "Decode rate x model size in percent of the GPU's peak memory bandwidth, for dense models. 40-80 % is usual, "
        f"and it should be steady. {MEAN}",
        "percentunit",
        build_query(f"avg({select_reading('bandwidth_utilization_ratio')})", "of peak bandwidth"),
    )
    return [first_token, length, energy.no_value(NO_GPU_DATA), bandwidth.max(1).no_value(NO_GPU_DATA)]
