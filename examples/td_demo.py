"""Shows a trained planner at work in PointMaze: no data and no training are needed.

    python examples/td_demo.py
    python examples/td_demo.py --seed 7 --output pictures

Where the package is installed, the command `td-demo` does the same.
"""

from __future__ import annotations

from torchrl_td.commands.demo import main

if __name__ == "__main__":
    main()
