"""The recording and alerting rules as Python values; `generate_rules.py` writes them as YAML.

`thresholds` holds the constants, `intervals` the windows that depend on the probe interval, `causes` the closed set of
causes, `readings`, `drops` and `baselines` the recording rules, `alerts` and `annotations` the alerts and their texts.
"""
