"""python -m minilm: the command `minilm`."""

from minilm.cli import main

raise SystemExit(main())
