"""What a dataset looks like: summary, terminal view, HTML page."""
