"""The miniature world: drawn scenes of which everything is known, their captions and names."""
