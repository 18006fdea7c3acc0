"""Turns the results of tasks into statistics, reports, plots and model cards."""
