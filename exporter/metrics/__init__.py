"""What Prometheus reads: metric families and their exposition."""
