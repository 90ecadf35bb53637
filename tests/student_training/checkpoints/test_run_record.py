"""The record of a run: which later command continues it."""

import pytest
import tomli_w

from data.errors import TrainingError
from student_training.checkpoints.run_record import RUN_RECORD, Found, find_run
from student_training.options import TrainOptions, resolve_method


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


def test_find_run_continues_a_run_of_an_older_default_where_its_value_is_given(tmp_path):
    recorded = {"options": {"method": "abd", "nll_weight": 0.0}, "inputs": {}}
    (tmp_path / RUN_RECORD).write_text(tomli_w.dumps(recorded))
    _, settings = resolve_method(TrainOptions(method="abd", student="s", out="o", signals=("a",)))
    now = {"options": {"method": "abd", "nll_weight": settings["nll_weight"]}, "inputs": {}}
    with pytest.raises(TrainingError, match=r"options\.nll_weight is 0\.0 there, 1\.0 here"):
        find_run(tmp_path, now)
    assert find_run(tmp_path, recorded) is Found.SAME
