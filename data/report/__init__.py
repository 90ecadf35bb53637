"""Reports on a dataset: statistics, terminal view, HTML page."""
