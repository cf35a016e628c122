"""Peers of recengine in the benchmarks: how they are installed (install.py) and run (runner.py)."""
