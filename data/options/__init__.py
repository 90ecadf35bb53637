"""Options as dataclass fields: one description for flags, configuration files and help."""
