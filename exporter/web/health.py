"""What `/-/healthy` answers, by which `healthcheck` knows that this program answers and not another one."""

HEALTHY = "ollama-throughput-exporter is healthy\n"
