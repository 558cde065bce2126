"""What the notebooks show and save: figures, tables with their provenance, checks."""
