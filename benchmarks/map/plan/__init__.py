"""What the map consists of: sizes and teachers, methods, and the order of its jobs."""
