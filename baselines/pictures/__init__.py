"""What the project draws: pixels, grids, captioned sheets, overlays and curves."""
