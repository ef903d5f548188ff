"""For those who study minilm: the table of checks of everything in it, which `minilm gradcheck` prints."""
