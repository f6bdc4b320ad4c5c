"""Training: optimiser, schedule, progress, and the run itself."""
