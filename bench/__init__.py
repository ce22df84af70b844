"""Measurements against goals and peers; `python -m bench` writes `bench/results.md`."""
