"""Ways to a model: one module for each kind of place that it may come from. See `ismn_cli.stages.user_models`."""
