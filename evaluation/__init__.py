"""Evaluation: answers, judges, win rates, public benchmarks, reports. Engines are handed in."""
