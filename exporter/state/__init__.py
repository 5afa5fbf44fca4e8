"""What is known of each probed model: counters and the last reading."""
