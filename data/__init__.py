"""What both stages share: preference rows, token ids, signal and rollout datasets on disk."""
