"""Where the settings' files are."""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parents[1]
_INSIDE = _PACKAGE / "configs"  # an installed package holds them; a checkout has them beside it

CONFIGS = _INSIDE if _INSIDE.is_dir() else _PACKAGE.parent / "configs"
"""The folder of ``td_offline.yaml`` and of the groups that it composes."""
