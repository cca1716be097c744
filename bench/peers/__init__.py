"""headrace beside the engines that it is measured against: see docs/benchmarks.md."""
