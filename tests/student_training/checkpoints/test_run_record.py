"""The record of a run: which later command continues it."""

import pytest
import tomli_w

from data.errors import TrainingError
from student_training.checkpoints.run_record import RUN_RECORD, Found, find_run


def recorded_before_a_setting(folder, request, name):
    """Write the record that a version without this setting would have left."""
    options = {key: value for key, value in request["options"].items() if key != name}
    (folder / RUN_RECORD).write_text(tomli_w.dumps({**request, "options": options}))


def test_find_run_reads_a_record_from_before_a_setting_existed(tmp_path):
    request = {"options": {"method": "abd", "divergence": "by-role"}, "inputs": {}}
    recorded_before_a_setting(tmp_path, request, "divergence")
    assert find_run(tmp_path, request) is Found.SAME


def test_find_run_refuses_a_new_setting_that_is_not_its_default(tmp_path):
    request = {"options": {"method": "abd", "divergence": "jsd"}, "inputs": {}}
    recorded_before_a_setting(tmp_path, request, "divergence")
    with pytest.raises(TrainingError, match=r"options\.divergence is absent there, jsd here"):
        find_run(tmp_path, request)
