"""What is known of each probed model and server: counters, the last reading, the last failure."""
