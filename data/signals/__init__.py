"""Signal and rollout datasets on disk: format, reading, writing, identity."""
