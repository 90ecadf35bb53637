"""What `adpa doctor` says of a machine."""

from data import doctor
from data.doctor import DoctorOptions, diagnose


def test_diagnose_lists_every_library_with_version_or_remedy():
    found = diagnose(DoctorOptions(offline=True))
    by_name = {library.name: library for library in found.libraries}
    assert by_name["torch"].version is not None
    assert all((library.version is None) == (library.install is not None) for library in found.libraries)
    assert found.hub.startswith("offline")
    assert found.free_gib > 0


def test_diagnose_names_versions_that_do_not_go_together(monkeypatch):
    versions = {"transformers": "4.57.0", "lm_eval": "0.4.9", "torch": "2.5.1"}
    monkeypatch.setattr(doctor, "_version", versions.get)
    problems = diagnose(DoctorOptions(offline=True)).problems
    assert [problem.split()[0] for problem in problems] == ["transformers", "lm_eval", "torch"]


def test_diagnose_says_a_hub_that_does_not_answer(monkeypatch):
    monkeypatch.setattr(doctor, "_HUB", "http://127.0.0.1:9/")
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    assert "not reachable" in diagnose(DoctorOptions()).hub
