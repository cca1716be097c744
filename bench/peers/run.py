"""Measure headrace beside llama.cpp, OpenVINO GenAI, vLLM's CPU build and transformers, in turn on one machine.

    python bench/peers/run.py --work DIR --prepare     install the peers and make the models, once
    python bench/peers/run.py --work DIR               measure; --resume goes on where an interrupted run stopped

docs/benchmarks.md says what each row means.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from peers.command import main

if __name__ == "__main__":
    main()
