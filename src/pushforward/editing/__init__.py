"""Editing through codes: written once against the capabilities `Encodes` and `Decodes`, so that every model that has them
can be interpolated, traversed and edited alike."""
