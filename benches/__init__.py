"""Klerk's benchmarks: `python -m benches` measures Klerk beside hand-inlined floors and its peers."""
