#!/bin/sh
# Copy the shipped rules and dashboards into the chart, which cannot read files outside its folder (`make chart`).
set -eu
cd "$(dirname "$0")/../.."
files=deploy/helm/ollama-throughput-exporter/files
rm -rf "$files"
mkdir -p "$files/dashboards"
cp deploy/prometheus/rules.yml "$files/"
cp grafana/dashboards/*.json "$files/dashboards/"
