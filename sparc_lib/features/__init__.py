"""From images and captions to features: the frozen encoders and the extraction."""
