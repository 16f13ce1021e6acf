"""Training: the Lightning modules, the data module, the schedule and the runs that join them."""
