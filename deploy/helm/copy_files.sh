#!/bin/sh
# Copies the shipped rules and dashboards into the chart, which can read no file outside its folder. `make chart` runs it.
set -eu
cd "$(dirname "$0")/../.."
files=deploy/helm/ollama-throughput-exporter/files
rm -rf "$files"
mkdir -p "$files/dashboards"
cp deploy/prometheus/rules.yml "$files/"
cp grafana/dashboards/*.json "$files/dashboards/"
