"""The compile gate: every kernel compiled as on a GPU, its figures read from the machine code and held to a budget."""
