"""Probes: what is due, who may run, how one runs and how its answer is evaluated."""
