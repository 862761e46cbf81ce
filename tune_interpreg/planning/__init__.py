"""What a study would run, how long it takes and what it costs: measured, reckoned, told; nothing runs."""
