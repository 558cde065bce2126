"""The mini encoders: how they are trained on the miniature world, how they are measured, their cards."""
