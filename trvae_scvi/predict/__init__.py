"""From checked cells to predictions, effects and combinations, and where they are written."""
