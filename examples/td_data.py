"""Look at a dataset, or record one.

    python examples/td_data.py describe d4rl:path/to/file.hdf5 --picture histograms.png
    python examples/td_data.py record maze2d/medium --steps 1000000 --overwrite
    python examples/td_data.py record Hopper-v5 --dataset my/hopper/random-v0

`--help` says more. Where the package is installed, the command `td-data` does the same.
"""

from __future__ import annotations

from torchrl_td.commands.data import main

if __name__ == "__main__":
    main()
