"""One file or folder for each API: pure parse and render, no I/O. The contract is in base.py."""
