"""Reading preference data: files, forms, and rows in one format."""
